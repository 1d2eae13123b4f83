"""Held-out questions put to a model, and graded by code where an answer can be right or wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from fromzero.inference import SamplingConfig, generate_text
from fromzero.model import Transformer
from fromzero.tokenizer import BPETokenizer, ChatTemplate

GREEDY = SamplingConfig(temperature=0, max_tokens=64)


def ask(
    model: Transformer,
    tokenizer: BPETokenizer,
    messages: Sequence[Mapping[str, str]],
    sampling: SamplingConfig = GREEDY,
) -> str:
    """The model's answer to a conversation that ends with the user's turn."""
    model.eval()
    ids = prompt_ids(tokenizer, messages)
    return generate_text(model, tokenizer, ids, sampling).text().strip()


def prompt_ids(tokenizer: BPETokenizer, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Ids of a conversation, with the header of the answer that is to come."""
    template = tokenizer.chat_template or ChatTemplate()
    return template.encode_chat(tokenizer, messages, add_generation_prompt=True)[0]


def is_right(answer: str, expected: Sequence[str]) -> bool:
    """Whether an answer holds every expected word, as a whole word."""
    padded = "".join(c if c.isalnum() or c in "_." else " " for c in answer)
    words = {word.strip(".") for word in padded.split()}
    return all(word in words for word in expected)


def gradable(records: Sequence[Mapping[str, Any]], per_kind: int) -> list[Mapping[str, Any]]:
    """Up to `per_kind` held-out records of each kind that names expected words, evenly spread."""
    chosen: list[Mapping[str, Any]] = []
    for kind in sorted({str(r.get("kind")) for r in records if r.get("expected")}):
        of_kind = [r for r in records if r.get("kind") == kind and r.get("expected")]
        chosen += of_kind[:: max(1, len(of_kind) // per_kind)][:per_kind]
    return chosen
