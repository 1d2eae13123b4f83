"""Pairs of sequences: what is translated, and sentences that may or may not follow one another.

B rows, S source and T target ids, N ids of a sequence.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fromzero.dataset.chats import NO_LOSS
from fromzero.dataset.objectives import Ids
from fromzero.errors import UserError

SHORT_SHARE = 0.1  # of BERT's pairs that are shorter than they could be, so that short ones are known too


def pad(rows: Sequence[Ids], fill: int, side: Literal["left", "right"] = "right") -> tuple[Ids, NDArray[np.bool_]]:
    """(B, longest), filled up at that side, and where the ids are real."""
    longest = max(map(len, rows))
    lengths_B1 = np.array([len(row) for row in rows])[:, None]
    keep = np.arange(longest) < lengths_B1 if side == "right" else np.arange(longest) >= longest - lengths_B1
    padded = np.full(keep.shape, fill, np.int64)
    padded[keep] = np.concatenate(rows)
    return padded, keep


def pair_batch(
    pairs: Sequence[tuple[Ids, Ids]], start_id: int, end_id: int, fill_id: int
) -> tuple[Ids, NDArray[np.bool_], Ids, Ids]:
    """What an encoder-decoder learns from (source, target) pairs: source_BS, keep_BS, inputs_BT, targets_BT.

    Sources and targets get end_id behind them, which carries loss; the decoder's inputs are the targets one place
    further to the right, with start_id before them. keep_BS is False, and targets are NO_LOSS, in padding.
    """
    source_BS, keep_BS = pad([np.append(source, end_id) for source, _ in pairs], fill_id)
    inputs_BT, _ = pad([np.insert(target, 0, start_id) for _, target in pairs], fill_id)
    targets_BT, _ = pad([np.append(target, end_id) for _, target in pairs], NO_LOSS)
    return source_BS, keep_BS, inputs_BT, targets_BT


def join(first_N: Ids, second_N: Ids, class_id: int, separator_id: int) -> tuple[Ids, Ids]:
    """[CLS] first [SEP] second [SEP], and the kind of segment of each: 0 up to the first [SEP], then 1 (BERT)."""
    ids = np.concatenate([[class_id], first_N, [separator_id], second_N, [separator_id]])
    return ids, (np.arange(len(ids)) > len(first_N) + 1).astype(np.int64)


def sentence_pairs(
    documents: Sequence[Sequence[Ids]], length: int, random: np.random.Generator, task: Literal["next", "order"]
) -> Iterator[tuple[Ids, Ids, bool]]:
    """Two stretches of whole sentences, `length` ids together at most, and whether something about them is changed.

    next: half of the second stretches are from another document (Devlin et al. 2019, appendix A.2), and those after
    a document's lone last sentence. order: half of the pairs are in the wrong order (Lan et al. 2020, section 3.1).
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
            first, second = np.concatenate(document[at:cut]), document[cut:end]
            changed = random.random() < 0.5
            if task == "next" and (changed or cut == end):
                other = documents[(number + int(random.integers(1, len(documents)))) % len(documents)]
                start = int(random.integers(len(other)))
                second, end, changed = other[start : _fill(other, start, wanted - len(first))], cut, True
            at = end
            if len(second):
                pair = first, np.concatenate(second)
                swapped = changed and task == "order"
                yield *_shorten(*(pair[::-1] if swapped else pair), length, random), changed


def _fill(document: Sequence[Ids], start: int, wanted: int) -> int:
    """The end of the shortest stretch of sentences from `start` on that has so many ids; at least one sentence."""
    sizes = np.cumsum([len(sentence) for sentence in document[start : start + max(wanted, 1)]])
    return min(start + 1 + int(np.searchsorted(sizes, wanted)), len(document))


def _shorten(first_N: Ids, second_N: Ids, length: int, random: np.random.Generator) -> tuple[Ids, Ids]:
    """Take ids off the longer one, at a random side, until both together fit: beginnings must not be favoured."""
    while len(first_N) + len(second_N) > length:
        side = slice(1, None) if random.random() < 0.5 else slice(None, -1)
        if len(first_N) > len(second_N):
            first_N = first_N[side]
        else:
            second_N = second_N[side]
    return first_N, second_N
