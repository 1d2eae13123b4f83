"""What a model learns from a sequence of ids: pure functions from ids (N,) to inputs, and targets for each of them.

Targets are NO_LOSS where nothing is to be predicted. What is drawn at random comes from the generator that is given.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fromzero.dataset.chats import NO_LOSS
from fromzero.errors import UserError

Ids = NDArray[np.int64]


def causal(ids_N: Ids) -> tuple[Ids, Ids]:
    """Each token from those before it: all but the last, and all but the first (GPT)."""
    return ids_N[:-1], ids_N[1:]


def prefix(ids_N: Ids, random: np.random.Generator) -> tuple[Ids, Ids, int]:
    """The rest of a sequence from a beginning of random length that sees itself in both directions (T5, section 3.3.1).

    Returns inputs and targets as for `causal`, without loss within the beginning, and the beginning's length: 1 to N-1,
    each as likely. N - length targets carry loss.
    """
    length = int(random.integers(1, len(ids_N)))
    targets = ids_N[1:].copy()
    targets[: length - 1] = NO_LOSS
    return ids_N[:-1], targets, length


def masked(
    ids_N: Ids,
    random: np.random.Generator,
    mask_id: int,
    vocab_size: int,
    words_N: Ids | None = None,
    share: float = 0.15,
) -> tuple[Ids, Ids]:
    """Hidden tokens from what is on both sides of them (Devlin et al. 2019, section 3.1).

    round(share x N) tokens, at least 1, are chosen; of them 80 % become mask_id, 10 % any id, and 10 % stay. words_N:
    the number of the word that each token is part of, -1 for one that is never chosen, such as [CLS] and padding: then
    words are chosen whole, as many as fit into that count. What a word is, a segmenter says: in Chinese it is several
    tokens, and one is known by its neighbours. Without words_N, each token is a word.
    """
    words_N = np.arange(len(ids_N)) if words_N is None else words_N
    chosen = _choose(words_N, max(1, round(share * len(ids_N))), random)
    fate = random.random(len(chosen))
    inputs, targets = ids_N.copy(), np.full_like(ids_N, NO_LOSS)
    targets[chosen] = ids_N[chosen]
    inputs[chosen[fate < 0.8]] = mask_id
    anything = chosen[fate >= 0.9]
    inputs[anything] = random.integers(0, vocab_size, len(anything))
    return inputs, targets


def _choose(words_N: Ids, budget: int, random: np.random.Generator) -> Ids:
    """Places of the tokens of random words, at most `budget`; a word that is too long for what is left is passed by."""
    words, sizes = np.unique(words_N[words_N >= 0], return_counts=True)
    order = random.permutation(len(words))
    if len(words) and sizes.max() == 1:  # the same without a loop
        return np.flatnonzero(np.isin(words_N, words[order[:budget]]))
    kept = []
    for at in order.tolist():
        if sizes[at] <= budget:
            budget -= int(sizes[at])
            kept.append(words[at])
    return np.flatnonzero(np.isin(words_N, kept))


def span_corruption(
    ids_N: Ids, random: np.random.Generator, sentinels: Sequence[int], share: float = 0.15, mean: float = 3.0
) -> tuple[Ids, Ids]:
    """What stood in gaps of a text (Raffel et al. 2020, 3.1.4 and 3.3.4): inputs of an encoder, targets of a decoder.

    Each gap is one sentinel in the inputs, the first gap the first of `sentinels`, and in the targets the same
    sentinel comes before the gap's ids. All targets carry loss. Raises UserError when there are more gaps than
    sentinels, or fewer than two ids.
    """
    gap_N = span_mask(len(ids_N), random, share, mean)
    starts_N = gap_N & ~np.roll(gap_N, 1)  # the first id is never in a gap
    if (gaps := int(starts_N.sum())) > len(sentinels):
        raise UserError(f"{gaps} gaps in {len(ids_N)} ids need as many sentinels, not {len(sentinels)}; add some")
    marked = ids_N.copy()
    marked[starts_N] = sentinels[:gaps]
    # Behind each sentinel stands its whole gap: where a gap starts, two ids are written.
    targets = np.stack([marked, ids_N], 1)[np.stack([starts_N, gap_N], 1)]
    return marked[~gap_N | starts_N], targets


def span_mask(length: int, random: np.random.Generator, share: float = 0.15, mean: float = 3.0) -> NDArray[np.bool_]:
    """(length,), True in gaps: what is kept and gaps take turns, kept first, all such divisions being as likely."""
    gap, gaps = _gaps(length, share, mean)
    runs = np.stack([_divide(length - gap, gaps, random), _divide(gap, gaps, random)], 1).ravel()
    return np.repeat(np.arange(2 * gaps) % 2 == 1, runs)


def span_lengths(length: int, share: float = 0.15, mean: float = 3.0) -> tuple[int, int]:
    """Ids that span_corruption makes of `length` ids, and an end behind each: (inputs, targets)."""
    gap, gaps = _gaps(length, share, mean)
    return length - gap + gaps + 1, gap + gaps + 1


def span_count(length: int, share: float = 0.15, mean: float = 3.0) -> int:
    """Gaps, and so sentinels, that span_corruption needs for `length` ids."""
    return _gaps(length, share, mean)[1]


def span_source_length(inputs: int, share: float = 0.15, mean: float = 3.0) -> int:
    """The most ids that fit into so many inputs after span_corruption; T5's 512 hold 568, with 114 targets."""
    length = 2
    while span_lengths(length + 1, share, mean)[0] <= inputs:
        length += 1
    return length


def _gaps(length: int, share: float, mean: float) -> tuple[int, int]:
    """(ids in gaps, number of gaps): at least one id is in a gap, and one isn't."""
    if length < 2:
        raise UserError(f"spans can't be cut out of {length} ids; give at least 2")
    gap = min(max(round(length * share), 1), length - 1)
    return gap, min(max(round(gap / mean), 1), gap, length - gap)


def _divide(items: int, parts: int, random: np.random.Generator) -> Ids:
    """Sizes of `parts` parts of at least one item, every way of cutting being as likely."""
    cuts = 1 + np.sort(random.choice(items - 1, parts - 1, replace=False))
    return np.diff(cuts, prepend=0, append=items)
