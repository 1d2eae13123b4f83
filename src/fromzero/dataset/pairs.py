"""Pairs of sequences: what is translated, and sentences that may or may not follow one another.

B rows, S source and T target ids, N ids of a sequence. Labels are 0 for what is as it was, 1 for what was changed.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fromzero.dataset.chats import NO_LOSS
from fromzero.dataset.objectives import Ids
from fromzero.errors import UserError

SHORT_SHARE = 0.1  # of BERT's pairs that are shorter than they could be, so that short ones are known too


class PairBatch(NamedTuple):
    """What an encoder-decoder learns from, in one batch."""

    source_BS: Ids
    keep_BS: NDArray[np.bool_]
    """False in padding."""
    inputs_BT: Ids
    """Of the decoder: the targets, one place further to the right."""
    targets_BT: Ids
    """NO_LOSS in padding; the end carries loss."""


class SentencePair(NamedTuple):
    """Two stretches of text and whether something about them is changed."""

    first_N: Ids
    second_N: Ids
    label: int


def pad(rows: Sequence[Ids], fill: int, side: Literal["left", "right"] = "right") -> tuple[Ids, NDArray[np.bool_]]:
    """(B, longest), filled up at that side, and where the ids are real."""
    longest = max(map(len, rows))
    lengths_B1 = np.array([len(row) for row in rows])[:, None]
    keep = np.arange(longest) < lengths_B1 if side == "right" else np.arange(longest) >= longest - lengths_B1
    padded = np.full(keep.shape, fill, np.int64)
    padded[keep] = np.concatenate(rows)
    return padded, keep


def pair_batch(pairs: Sequence[tuple[Ids, Ids]], start_id: int, end_id: int, fill_id: int) -> PairBatch:
    """Batch of (source, target): both get end_id behind them, and the decoder's inputs get start_id before them."""
    source_BS, keep_BS = pad([np.append(source, end_id) for source, _ in pairs], fill_id)
    inputs_BT, _ = pad([np.insert(target, 0, start_id) for _, target in pairs], fill_id)
    targets_BT, _ = pad([np.append(target, end_id) for _, target in pairs], NO_LOSS)
    return PairBatch(source_BS, keep_BS, inputs_BT, targets_BT)


def join(first_N: Ids, second_N: Ids, class_id: int, separator_id: int) -> tuple[Ids, Ids]:
    """[CLS] first [SEP] second [SEP], and the kind of segment of each: 0 up to the first [SEP], then 1 (BERT)."""
    ids = np.concatenate([[class_id], first_N, [separator_id], second_N, [separator_id]])
    return ids, (np.arange(len(ids)) > len(first_N) + 1).astype(np.int64)


def sentence_pairs(
    documents: Sequence[Sequence[Ids]], length: int, random: np.random.Generator, task: Literal["next", "order"]
) -> Iterator[SentencePair]:
    """Pairs of stretches of whole sentences, of `length` ids together at most; the last sentence may be cut.

    next: half of the second stretches are from another document (Devlin et al. 2019, appendix A.2), and those after
    a document's lone last sentence.
    order: half of the pairs are in the wrong order (Lan et al. 2020, section 3.1); lone sentences make none.
    Raises UserError when there is one document only, and the next sentence is asked for.
    """
    documents = [document for document in documents if len(document)]
    if task == "next" and len(documents) < 2:
        raise UserError("a wrong next sentence is taken from another document; give at least 2 documents")
    for number, document in enumerate(documents):
        at = 0
        while at < len(document):
            wanted = int(random.integers(2, length + 1)) if random.random() < SHORT_SHARE else length
            end = _fill(document, at, wanted)
            cut = int(random.integers(at + 1, max(end, at + 2)))
            first, second = document[at:cut], document[cut:end]
            changed = bool(random.random() < 0.5)
            if task == "next" and (changed or not len(second)):
                second, end, changed = _elsewhere(documents, number, wanted - _size(first), random), cut, True
            elif task == "order" and changed:
                first, second = second, first
            at = end
            if len(first) and len(second):
                yield SentencePair(*_shorten(np.concatenate(first), np.concatenate(second), length, random), changed)


def _elsewhere(
    documents: Sequence[Sequence[Ids]], here: int, wanted: int, random: np.random.Generator
) -> Sequence[Ids]:
    """Sentences of another document, from a random one on, of about that many ids."""
    other = int(random.integers(len(documents) - 1))
    document = documents[other + (other >= here)]
    start = int(random.integers(len(document)))
    return document[start : _fill(document, start, wanted)]


def _fill(document: Sequence[Ids], start: int, wanted: int) -> int:
    """The end of the shortest stretch of sentences from `start` on that has so many ids; at least one sentence."""
    end = start + 1
    while end < len(document) and _size(document[start:end]) < wanted:
        end += 1
    return end


def _size(sentences: Sequence[Ids]) -> int:
    return sum(map(len, sentences))


def _shorten(first_N: Ids, second_N: Ids, length: int, random: np.random.Generator) -> tuple[Ids, Ids]:
    """Take ids off the longer one, at a random side, until both together fit: beginnings must not be favoured."""
    while len(first_N) + len(second_N) > length:
        side = slice(1, None) if random.random() < 0.5 else slice(None, -1)
        if len(first_N) > len(second_N):
            first_N = first_N[side]
        else:
            second_N = second_N[side]
    return first_N, second_N
