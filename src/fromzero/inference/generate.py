"""Generation: the prompt in one pass, then a token at a time through the cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from fromzero.errors import UserError
from fromzero.inference.cache import KVCache
from fromzero.inference.sampling import Sampler, SamplingConfig
from fromzero.model import Transformer
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.stream import StreamDecoder

StopReason = Literal["stop", "length", "context"]


@torch.inference_mode()
def generate_tokens(
    model: Transformer,
    prompt: Sequence[int],
    config: SamplingConfig,
    stop_ids: frozenset[int] = frozenset(),
    cached: bool = True,
) -> Iterator[int]:
    """Yield ids after the prompt until an id of `stop_ids` (not yielded), max_tokens, or the end of the context.

    cached=False computes every position anew for each token: slow, the reference that the cached way must equal.
    Raises UserError for an empty prompt or one that fills the context.
    """
    limit = model.config.context - len(prompt)
    if not prompt:
        raise UserError("the prompt is empty; give at least one token")
    if limit < 1:
        raise UserError(
            f"the prompt has {len(prompt)} tokens and the model's context is {model.config.context}; shorten the prompt"
        )
    device = model.device
    sampler = Sampler(config, prompt)
    capacity = len(prompt) + min(config.max_tokens, limit)
    cache = KVCache(model.config, 1, capacity, model.compute_dtype, device) if cached else None
    ids = torch.tensor([list(prompt)], device=device)
    new = ids
    for _ in range(min(config.max_tokens, limit)):
        logits_V = model(new if cached else ids, cache)[0, -1]
        token = sampler.choose(logits_V.cpu())
        if token in stop_ids:
            return
        sampler.accept(token)
        yield token
        new = torch.tensor([[token]], device=device)
        ids = torch.cat([ids, new], dim=1)


@dataclass
class Generation:
    """An answer in the making: iterate over it for pieces of text; afterwards it says how it ended."""

    pieces: Iterator[str]
    tokens: int = 0
    reason: StopReason = "stop"

    def __iter__(self) -> Iterator[str]:
        return self.pieces

    def text(self) -> str:
        """Everything that is still to come, as one text."""
        return "".join(self.pieces)


def generate_text(
    model: Transformer, tokenizer: Tokenizer, prompt: Sequence[int], config: SamplingConfig, goes_on: bool = False
) -> Generation:
    """Generate text after the prompt, piece by piece, never half a character, ending before any stop text.

    Every special token but the unknown one ends it: a model has no business writing the markers of a turn itself.
    goes_on: it goes on from words of the prompt, so a blank that comes first is kept; else it is a text of its own.
    """
    generation = Generation(iter(()))
    generation.pieces = _pieces(model, tokenizer, prompt, config, StreamDecoder(tokenizer, later=goes_on), generation)
    return generation


def _pieces(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    config: SamplingConfig,
    decoder: StreamDecoder,
    result: Generation,
) -> Iterator[str]:
    stops = frozenset(i for i in tokenizer.special_tokens.values() if i != tokenizer.unknown_id)
    held = ""  # text that might be the beginning of a stop text
    for token in generate_tokens(model, prompt, config, stops):
        result.tokens += 1
        ready, held, stopped = _split_at_stop(held + decoder.feed([token]), config.stop)
        if ready:
            yield ready
        if stopped:
            return
    ready, held, stopped = _split_at_stop(held + decoder.flush(), config.stop)
    if not stopped:
        full = len(prompt) + result.tokens >= model.config.context
        result.reason = "length" if result.tokens >= config.max_tokens else "context" if full else "stop"
    if ready or held:
        yield ready if stopped else ready + held


def _split_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str, bool]:
    """(text that is safe to show, text to hold back, whether a stop text was found)."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)], "", True
    for start in range(max(0, len(text) - max(map(len, stops), default=0)), len(text)):
        if any(stop.startswith(text[start:]) for stop in stops):
            return text[:start], text[start:], False
    return text, "", False
