"""Perplexity and bits per byte of documents, with standard errors.

    bits per byte = (total nats / ln 2 + 8 x bytes to spell) / total UTF-8 bytes

Every token of a document's text is scored once; special tokens stand for no text and count in neither sum. Bits per
byte is the length of a code from which the text can be got back, so it compares models whatever their tokenizers: what
an unknown token stands for is spelled behind it, and where a tokenizer changes text there is no figure (see
`dataset.recovery`). Perplexity per token compares only models that share a tokenizer; to it an unknown token is one
like any other.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromzero.dataset.recovery import bytes_to_spell
from fromzero.errors import UserError
from fromzero.model import Transformer
from fromzero.model.linear_loss import IGNORE
from fromzero.tokenizer import Tokenizer


@dataclass(frozen=True)
class DocumentScore:
    """What a model makes of one document."""

    nats: float
    tokens: int
    bytes: int
    characters: int
    spelled: int | None = 0
    """Bytes that spell what unknown tokens stand for; None where the text can't be got back from its tokens."""


@dataclass(frozen=True)
class Perplexity:
    """The sums over documents, and the rates with their standard errors."""

    documents: int
    tokens: int
    bytes: int
    characters: int
    nats: float
    spelled: int
    """Bytes to spell, in the documents that can be got back."""
    changed: int
    """Documents that can't be got back from their tokens; with any there is no rate by byte or character."""
    bits_per_byte: float | None
    bits_per_byte_stderr: float | None
    """None for a single document, which says nothing about the spread."""
    perplexity: float
    perplexity_stderr: float | None
    nats_per_character: float | None


def score_documents(
    model: Transformer, tokenizer: Tokenizer, texts: Iterable[str], batch_tokens: int = 8192
) -> Iterator[DocumentScore]:
    """Score each text that is not empty, in order.

    A text longer than the context is cut into windows of the context, each of which begins with the last token of the
    one before, so every token is scored exactly once. Several texts are scored together, in windows of like length.
    """
    group: list[tuple[DocumentScore, list[int]]] = []
    for text in texts:
        if ids := tokenizer.encode_ordinary(text):
            spelled = bytes_to_spell(tokenizer, ids, text)
            unscored = DocumentScore(0.0, len(ids), len(text.encode()), len(text), spelled)
            group.append((unscored, [tokenizer.end_of_text, *ids]))
        if sum(len(ids) for _, ids in group) >= 8 * batch_tokens:
            yield from _score_group(model, group, batch_tokens)
            group = []
    yield from _score_group(model, group, batch_tokens)


def _score_group(
    model: Transformer, group: Sequence[tuple[DocumentScore, list[int]]], batch_tokens: int
) -> Iterator[DocumentScore]:
    context = model.config.context
    windows = [
        (document, ids[start : start + context + 1])
        for document, (_, ids) in enumerate(group)
        for start in range(0, len(ids) - 1, context)
    ]
    windows.sort(key=lambda window: len(window[1]))
    nats = [0.0] * len(group)
    rows = max(1, batch_tokens // context)
    for first in range(0, len(windows), rows):
        batch = windows[first : first + rows]
        for (document, _), value in zip(batch, _window_nats(model, [ids for _, ids in batch]), strict=True):
            nats[document] += value
    for (unscored, _), value in zip(group, nats, strict=True):
        yield dataclasses.replace(unscored, nats=value)


def _window_nats(model: Transformer, windows: Sequence[Sequence[int]]) -> list[float]:
    """Nats of each window's ids after the first."""
    padded = torch.full((len(windows), max(map(len, windows))), IGNORE)
    for row, ids in enumerate(windows):
        padded[row, : len(ids)] = torch.tensor(ids)
    padded = padded.to(model.device)
    nats_BT = token_nats(model, padded[:, :-1].clamp(min=0), padded[:, 1:])
    return [float(total) for total in nats_BT.double().sum(-1)]


@torch.inference_mode()
def token_nats(model: Transformer, ids_BT: Tensor, targets_BT: Tensor, **marks: Any) -> Tensor:
    """-log p of each target in nats, (B, T) fp32; 0 where the target is -100. marks: see Transformer.forward."""
    model.eval()
    x_ND = model.hidden(ids_BT, **marks).flatten(0, 1)
    return model.head.nats(x_ND, model.head_weight, targets_BT.flatten()).view_as(targets_BT)


def summarize(scores: Iterable[DocumentScore]) -> Perplexity:
    """Totals and rates. The standard errors treat documents as the independent units that they are (tokens within one
    are not): that of a ratio of sums, sqrt(D/(D-1) x sum (n_d - r b_d)^2) / sum b_d (Cochran 1977, eq. 6.13)."""
    scores = list(scores)
    if not scores:
        raise UserError("there is no held-out document to evaluate on; build the corpus with a larger validation share")
    rate_token, error_token = _ratio([s.nats for s in scores], [s.tokens for s in scores])
    changed = sum(s.spelled is None for s in scores)
    nats = [s.nats + 8 * math.log(2) * (s.spelled or 0) for s in scores]
    rate_byte, error_byte = _ratio(nats, [s.bytes for s in scores])
    return Perplexity(
        documents=len(scores),
        tokens=sum(s.tokens for s in scores),
        bytes=sum(s.bytes for s in scores),
        characters=sum(s.characters for s in scores),
        nats=math.fsum(s.nats for s in scores),
        spelled=sum(s.spelled or 0 for s in scores),
        changed=changed,
        bits_per_byte=None if changed else rate_byte / math.log(2),
        bits_per_byte_stderr=None if changed or error_byte is None else error_byte / math.log(2),
        perplexity=math.exp(rate_token),
        perplexity_stderr=None if error_token is None else math.exp(rate_token) * error_token,  # the delta method
        nats_per_character=None if changed else math.fsum(nats) / sum(s.characters for s in scores),
    )


def _ratio(numerators: Sequence[float], denominators: Sequence[int]) -> tuple[float, float | None]:
    """sum / sum and its standard error, None for a single unit."""
    total, count = sum(denominators), len(numerators)
    rate = math.fsum(numerators) / total
    if count < 2:
        return rate, None
    spread = math.fsum((n - rate * d) ** 2 for n, d in zip(numerators, denominators, strict=True))
    return rate, math.sqrt(count / (count - 1) * spread) / total
