"""Held-out questions put to a model, and graded by code where an answer can be right or wrong."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fromzero.inference import SamplingConfig, generate_text
from fromzero.model import Transformer
from fromzero.tokenizer import ChatTemplate, Tokenizer

GREEDY = SamplingConfig(temperature=0, max_tokens=64)


def ask(
    model: Transformer,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    sampling: SamplingConfig = GREEDY,
) -> str:
    """The model's answer to a conversation that ends with the user's turn."""
    model.eval()
    ids = prompt_ids(tokenizer, messages)
    return generate_text(model, tokenizer, ids, sampling).text().strip()


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Ids of a conversation, with the header of the answer that is to come."""
    template = tokenizer.chat_template or ChatTemplate()
    return template.encode_chat(tokenizer, messages, add_generation_prompt=True)[0]


def end_of_turn(tokenizer: Tokenizer) -> str | None:
    """The special token with which the assistant's turn ends in the chat template; None where there is no such."""
    if (template := tokenizer.chat_template) is None:
        return None
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids, learned = template.encode_learned(tokenizer, messages)
    last = [token for token, carries in zip(ids, learned, strict=True) if carries][-1:]
    return next((text for text, token in tokenizer.special_tokens.items() if [token] == last), None)


def is_right(answer: str, expected: Sequence[Any]) -> bool:
    """Whether an answer holds every expected word, or number, as a whole word."""
    return all(_holds(answer, str(word)) for word in expected)


def _holds(answer: str, word: str) -> bool:
    if not word.isascii():  # Chinese has no blanks between words
        return word in answer
    return re.search(rf"(?a)(?<![\w.]){re.escape(word)}(?!\.?\w)", answer) is not None


def gradable(records: Sequence[Mapping[str, Any]], per_kind: int) -> list[Mapping[str, Any]]:
    """Up to `per_kind` held-out records of each kind that names expected words, evenly spread."""
    chosen: list[Mapping[str, Any]] = []
    if per_kind < 1:
        return chosen
    with_words = [r for r in records if isinstance(r.get("expected"), list) and r["expected"]]
    for kind in sorted({str(r.get("kind")) for r in with_words}):
        of_kind = [r for r in with_words if str(r.get("kind")) == kind]
        chosen += of_kind[:: max(1, len(of_kind) // per_kind)][:per_kind]
    return chosen
