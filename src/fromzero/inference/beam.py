"""Beam search: several answers grow side by side; only the likeliest go on (Sutskever 2014). K beams, V vocabulary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.inference.cache import KVCache
from fromzero.model import EncoderDecoder, Transformer

Stop = Literal["full", "likely", "certain"]
Step = Callable[[Tensor, Tensor], Tensor]
"""(which beam each new one goes on from (K,), its newest id (K,)) -> logits after it (K, V)."""


@dataclass(frozen=True)
class BeamConfig:
    """How answers are searched for."""

    beams: int = 4
    """Answers that grow side by side; 1, with stop full, always takes the most likely token."""
    best: int = 1
    """Answers to give, at most as many as beams."""
    max_tokens: int = 64
    """Longest answer, tokens, its end among them."""
    length_penalty: float = 1.0
    """An answer's score is its log-probability / length ** this: above 0 favours long ones; 0 is the probability."""
    length: Literal["tokens", "gnmt"] = "tokens"
    """How long an answer of n tokens is, with its end: n (as in transformers), or (5 + n) / 6 (Wu 2016, eq. 14)."""
    stop: Stop = "likely"
    """When to stop, once there are as many ended answers as beams: at once; or when the best that grows, ended here,
    would not be among them; or when it could not be at any length (a bound for each penalty that is not below 0)."""

    def __post_init__(self) -> None:
        if not 1 <= self.best <= self.beams or self.max_tokens < 1:
            raise UserError(
                f"best ({self.best}) goes from 1 to beams ({self.beams}), max_tokens from 1 ({self.max_tokens})"
            )

    def score(self, log_probability: float, tokens: int) -> float:
        """Of an answer of so many tokens."""
        length = tokens if self.length == "tokens" else (5 + tokens) / 6
        return log_probability / length**self.length_penalty


class Answer(NamedTuple):
    """Ids after the prompt without the one that ends them, and their score (while it grows, its log-probability)."""

    tokens: list[int]
    score: float


def beam_search(logits_V: Tensor, step: Step, config: BeamConfig, stop_ids: frozenset[int]) -> list[Answer]:
    """The best answers, best first, given the logits of their first token and a way to go on.

    At each length, the most likely continuations of all beams are looked at: twice as many as beams (or more, with more
    stop ids), so that as many go on as there are beams, whatever ends. An ended one counts if it is among the first
    `beams`; at max_tokens all end.
    """
    vocab, looked_at = len(logits_V), max(2, 1 + len(stop_ids)) * config.beams
    logits_KV, growing, ended = logits_V[None], [Answer([], 0.0)], list[Answer]()
    for length in range(1, config.max_tokens + 1):
        so_far_K1 = logits_V.new_tensor([[answer.score] for answer in growing], dtype=torch.float32)
        totals = (logits_KV.float().log_softmax(-1) + so_far_K1).flatten()
        scores, places = totals.topk(min(looked_at, len(totals)))
        grown: list[tuple[int, Answer]] = []
        for rank, (score, place) in enumerate(zip(scores.tolist(), places.tolist(), strict=True)):
            parent, token = divmod(place, vocab)
            tokens = growing[parent].tokens + ([] if token in stop_ids else [token])
            if token not in stop_ids and length < config.max_tokens:
                grown.append((parent, Answer(tokens, score)))
            elif rank < config.beams:
                ended.append(Answer(tokens, config.score(score, length)))
        ended = sorted(ended, key=lambda answer: -answer.score)[: config.beams]
        growing = [answer for _, answer in grown[: config.beams]]
        if not growing:
            break
        if len(ended) == config.beams:  # log-probabilities only fall; divided by a power of the length they may rise
            at_best = config.max_tokens if config.stop == "certain" and config.length_penalty > 0 else length
            if config.stop == "full" or config.score(growing[0].score, at_best) <= ended[-1].score:
                break
        parents_K = torch.tensor([parent for parent, _ in grown[: config.beams]], device=logits_V.device)
        logits_KV = step(parents_K, torch.tensor([a.tokens[-1] for a in growing], device=logits_V.device))
    return ended[: config.best]


@torch.inference_mode()
def search_answers(
    model: Transformer | EncoderDecoder,
    prompt: Sequence[int],
    config: BeamConfig,
    stop_ids: frozenset[int] = frozenset(),
    source: Sequence[int] = (),
    prefix: bool = False,
) -> list[Answer]:
    """The best answers to a prompt, best first; of an encoder-decoder to a source, where the prompt is its start id.

    source: with the end id behind it, if the model has learnt it so (T5 and dataset.pairs.pair_batch have it).
    prefix: the prompt's tokens see each other in both directions (a prefix LM). Answers end with the context at last.
    Raises UserError for an empty prompt or one that fills the context, and for an encoder-decoder without a source.
    """
    room = model.config.context - len(prompt)
    if not prompt or room < 1:
        raise UserError(f"the prompt has {len(prompt)} tokens; give 1 to {model.config.context - 1}")
    config = replace(config, max_tokens=min(config.max_tokens, room))
    device = model.device
    cache = KVCache(model.config, 1, len(prompt) + config.max_tokens, model.compute_dtype, device)
    decode: Callable[..., Tensor] = model
    if isinstance(model, EncoderDecoder):
        if not source:
            raise UserError("an encoder-decoder answers to a source; give at least one token")
        # One source for all beams: its keys and values stay a batch of one, which attention spreads over them.
        decode = partial(model.decode, memory=model.encode(torch.tensor([list(source)], device=device)))

    def step(parents_K: Tensor, tokens_K: Tensor) -> Tensor:
        cache.select(parents_K)
        return decode(tokens_K[:, None], cache)[:, -1]

    given = {"prefix_B": torch.tensor([len(prompt)], device=device)} if prefix else {}
    logits_V = decode(torch.tensor([list(prompt)], device=device), cache, **given)[0, -1]
    return beam_search(logits_V, step, config, stop_ids)
