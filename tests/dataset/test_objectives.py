"""What carries loss and what is hidden, counted; the odds of what is drawn, with fixed seeds."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.dataset import objectives
from fromzero.dataset.chats import NO_LOSS
from fromzero.errors import UserError

MASK, VOCAB = 1000, 900
SENTINELS = range(2000, 1900, -1)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def loss_count(targets: objectives.Ids) -> int:
    return int((targets != NO_LOSS).sum())


def test_causal_targets_are_one_further() -> None:
    inputs, targets = objectives.causal(np.arange(10))
    assert (targets == inputs + 1).all()
    assert loss_count(targets) == 9


def test_prefix_lengths_are_even_and_nothing_within_carries_loss() -> None:
    random, lengths = seeded(), Counter[int]()
    for _ in range(4000):
        inputs, targets, length = objectives.prefix(np.arange(9), random)
        assert inputs.tolist() == list(range(8))
        assert loss_count(targets) == 9 - length
        assert targets[length - 1 :].tolist() == list(range(length, 9))
        lengths[length] += 1
    assert sorted(lengths) == list(range(1, 9))
    assert sum((n - 500) ** 2 / 500 for n in lengths.values()) < 25  # chi-squared with 7 degrees of freedom


@given(st.integers(1, 300), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_as_many_tokens_as_bert_hides_carry_loss_and_all_others_stay(length: int, seed: int) -> None:
    ids = seeded(seed).integers(0, VOCAB, length)
    inputs, targets = objectives.masked(ids, seeded(seed), MASK, VOCAB)
    hidden = targets != NO_LOSS
    assert hidden.sum() == max(1, round(0.15 * length))
    assert (targets[hidden] == ids[hidden]).all()
    assert (inputs[~hidden] == ids[~hidden]).all()


def test_of_hidden_tokens_80_percent_are_masked_10_are_random_and_10_stay() -> None:
    ids = np.full(40_000, VOCAB - 1)
    inputs, targets = objectives.masked(ids, seeded(), MASK, VOCAB)
    hidden = inputs[targets != NO_LOSS]
    assert len(hidden) == 6000
    assert abs((hidden == MASK).mean() - 0.8) < 0.015
    assert abs((hidden == VOCAB - 1).mean() - 0.1) < 0.012
    drawn = hidden[(hidden != MASK) & (hidden != VOCAB - 1)]
    assert abs(drawn.mean() - VOCAB / 2) < 35
    places = np.flatnonzero(targets != NO_LOSS)
    assert abs(places.mean() - 20_000) < 500


def test_words_are_hidden_whole_and_special_tokens_never() -> None:
    # A segmenter's answer for Chinese: 我们 / 喜欢 / 自然语言 / 处理 / 。, between [CLS] and [SEP].
    words = np.array([-1, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4, -1])
    ids, random, hidden = np.arange(13), seeded(), Counter[int]()
    for _ in range(3000):
        _, targets = objectives.masked(ids, random, MASK, VOCAB, words, share=0.35)
        places = targets != NO_LOSS
        assert places.sum() <= round(0.35 * 13)
        for word in range(5):
            assert places[words == word].all() or not places[words == word].any()
        hidden.update(words[places].tolist())
    assert set(hidden) == {0, 1, 2, 3, 4}


def test_nothing_is_hidden_where_nothing_may_be() -> None:
    inputs, targets = objectives.masked(np.arange(4), seeded(), MASK, VOCAB, np.full(4, -1))
    assert inputs.tolist() == [0, 1, 2, 3]
    assert loss_count(targets) == 0


def test_the_lengths_of_t5() -> None:
    """512 inputs and 114 targets are made of 568 ids, and one gap is 3 long on average (T5's published settings)."""
    assert objectives.span_source_length(512) == 568
    assert objectives.span_lengths(568) == (512, 114)
    inputs, targets = objectives.span_corruption(np.arange(568), seeded(), SENTINELS)
    assert (len(inputs) + 1, len(targets) + 1) == (512, 114)
    assert (inputs > 1000).sum() == (targets > 1000).sum() == 28  # round(85 / 3)


@given(st.integers(2, 400), st.integers(0, 2**32), st.sampled_from([0.15, 0.5, 0.9]), st.sampled_from([1.0, 3.0, 8.0]))
@settings(max_examples=100, deadline=None)
def test_inputs_and_targets_together_are_the_text(length: int, seed: int, share: float, mean: float) -> None:
    ids, sentinels = np.arange(length), range(2000, 1500, -1)
    inputs, targets = objectives.span_corruption(ids, seeded(seed), sentinels, share, mean)
    assert (len(inputs) + 1, len(targets) + 1) == objectives.span_lengths(length, share, mean)
    gaps: dict[int, list[int]] = {}
    for target in targets.tolist():
        if target > 1000:
            gaps[now := target] = []
        else:
            gaps[now].append(target)
    assert list(gaps) == list(sentinels)[: len(gaps)]
    assert all(gaps.values())
    whole = [i for x in inputs.tolist() for i in (gaps[x] if x > 1000 else [x])]
    assert whole == ids.tolist()


def test_every_way_of_cutting_gaps_is_as_likely() -> None:
    """8 ids, 4 in 2 gaps: 3 ways to divide what is kept times 3 to divide the gaps; 8 degrees of freedom."""
    random = seeded()
    masks = Counter(tuple(objectives.span_mask(8, random, 0.5, 2.0).tolist()) for _ in range(4500))
    assert len(masks) == 9
    assert sum((n - 500) ** 2 / 500 for n in masks.values()) < 26


def test_too_few_sentinels_or_ids_are_told() -> None:
    with pytest.raises(UserError, match="28 gaps in 568 ids need as many sentinels, not 5"):
        objectives.span_corruption(np.arange(568), seeded(), range(5))
    with pytest.raises(UserError, match="give at least 2"):
        objectives.span_corruption(np.arange(1), seeded(), SENTINELS)
