"""Sampling: each step against transformers or its formula, what always holds, and that a seed is all that counts."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import logits_process as theirs

from fromzero.errors import UserError
from fromzero.inference.sampling import (
    Floats,
    Sampler,
    SamplingConfig,
    gumbel_noise,
    min_p,
    softmax,
    top_k,
    top_p,
    typical,
)

PLAIN = SamplingConfig(temperature=1, top_p=1, seed=0)
VOCAB = 5000


def likely_text(seed: int, vocab: int = VOCAB) -> Tensor:
    """Logits as a language model has them: ranks follow Zipf's law, more or less steeply."""
    generator = torch.Generator().manual_seed(seed)
    steepness = 0.5 + 2.5 * torch.rand((), generator=generator)
    logits = -steepness * torch.arange(1, vocab + 1).log() + 0.5 * torch.randn(vocab, generator=generator)
    return logits[torch.randperm(vocab, generator=generator)]


def left(config: SamplingConfig, logits: Tensor, seen: tuple[int, ...] = ()) -> Tensor:
    """What the sampler draws from, as logits of the whole vocabulary."""
    sampler = Sampler(config, seen)
    ids, values = sampler.candidates(logits)
    return torch.full_like(logits, -math.inf).index_put((torch.from_numpy(ids),), torch.from_numpy(values.copy()))


PEERS = [
    ({"top_k": 50}, theirs.TopKLogitsWarper(50)),
    ({"top_k": 1}, theirs.TopKLogitsWarper(1)),
    ({"top_p": 0.9}, theirs.TopPLogitsWarper(0.9)),
    ({"top_p": 0.37}, theirs.TopPLogitsWarper(0.37)),
    ({"min_p": 0.05}, theirs.MinPLogitsWarper(0.05)),
    ({"typical_p": 0.9}, theirs.TypicalLogitsWarper(0.9)),
    ({"typical_p": 0.2}, theirs.TypicalLogitsWarper(0.2)),
    ({"temperature": 0.7}, theirs.TemperatureLogitsWarper(0.7)),
    ({"repetition_penalty": 1.3}, theirs.RepetitionPenaltyLogitsProcessor(1.3)),
    ({"logit_bias": {3: 2.5, 4: -7.0}}, theirs.SequenceBiasLogitsProcessor([[[3], 2.5], [[4], -7.0]])),
]


@pytest.mark.parametrize(("setting", "peer"), PEERS, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_each_step_is_that_of_transformers(setting: dict[str, Any], peer: theirs.LogitsProcessor) -> None:
    for seed in range(12):
        logits, seen = likely_text(seed), tuple(range(seed, 300, 7))
        ours = left(replace(PLAIN, **setting), logits, seen)
        torch.testing.assert_close(ours, peer(torch.tensor([seen]), logits[None])[0])


def test_all_of_them_in_the_order_of_transformers() -> None:
    """Repetition, temperature, top-k, top-p, min-p, typical."""
    config = SamplingConfig(1.3, 80, 0.9, 0.01, 0.8, repetition_penalty=1.2)
    peers: list[theirs.LogitsProcessor] = [
        theirs.RepetitionPenaltyLogitsProcessor(1.2),
        theirs.TemperatureLogitsWarper(1.3),
    ]
    peers += [theirs.TopKLogitsWarper(80), theirs.TopPLogitsWarper(0.9), theirs.MinPLogitsWarper(0.01)]
    peers += [theirs.TypicalLogitsWarper(0.8)]
    for seed in range(12):
        logits, seen = likely_text(seed), tuple(range(50))
        expected = logits[None]
        for peer in peers:
            expected = peer(torch.tensor([seen]), expected)
        torch.testing.assert_close(left(config, logits, seen), expected[0])


def test_presence_and_frequency_by_their_formula() -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, where c counts what the answer has, not the prompt."""
    logits, answer = torch.linspace(-1, 1, 8), [1, 2, 2, 5, 2]
    sampler = Sampler(SamplingConfig(temperature=1, top_p=1, presence_penalty=0.7, frequency_penalty=-0.4), [0, 1, 7])
    for token in answer:
        sampler.accept(token)
    counts = Counter(answer)
    expected = [x - counts[i] * -0.4 - (counts[i] > 0) * 0.7 for i, x in enumerate(logits.tolist())]
    assert sampler.candidates(logits)[1].tolist() == pytest.approx(expected, abs=1e-6)


def test_penalties_of_a_long_answer_count_all_of_it() -> None:
    sampler = Sampler(SamplingConfig(temperature=1, top_p=1, frequency_penalty=0.01, repetition_penalty=2.0), [9])
    tokens = [i % 7 for i in range(1000)]
    for token in tokens:
        sampler.accept(token)
    expected = [(2.0 if i in (7, 8) else 1.0) - 0.01 * tokens.count(i) for i in range(10)]
    assert sampler.candidates(torch.full((10,), 2.0))[1].tolist() == pytest.approx(expected, abs=1e-4)


def test_filters_by_hand() -> None:
    shares = np.log(np.array([0.1, 0.15, 0.25, 0.5], np.float32))
    assert sorted(top_k(shares, 2)) == [2, 3]
    assert top_k(np.zeros(9, np.float32), 3).tolist() == [0, 1, 2]
    assert sorted(top_p(shares, 0.49)) == [3]
    assert sorted(top_p(shares, 0.51)) == [2, 3]
    assert sorted(top_p(shares, 1e-9)) == [3]
    assert sorted(top_p(np.zeros(10, np.float32), 0.35)) == [0, 1, 2, 3]
    assert sorted(min_p(shares, 0.29)) == [1, 2, 3]
    assert sorted(min_p(shares, 1.0)) == [3]
    assert typical(np.log(np.array([0.6, 0.1, 0.3], np.float32)), 0.2).tolist() == [2]  # entropy .898, surprise 1.20
    assert typical(np.zeros(4, np.float32), 0.99).tolist() == [0, 1, 2, 3]


LOGITS = st.integers(1, 400).flatmap(
    lambda count: st.lists(st.floats(-40, 40, width=32), min_size=count, max_size=count)
)


@given(LOGITS, st.floats(1e-3, 0.999), st.integers(1, 50), st.sampled_from([1.0, 0.1, 8.0]))
@settings(max_examples=150, deadline=None)
def test_filters_keep_what_they_say(values: list[float], p: float, k: int, scale: float) -> None:
    logits = np.array(values, np.float32) * np.float32(scale)
    share = softmax(logits).astype(np.float64)
    assert len(set(top_k(logits, k))) == min(k, len(logits))
    assert logits[top_k(logits, k)].min() >= np.delete(logits, top_k(logits, k)).max(initial=-math.inf)
    for keep in (top_p, typical):
        kept = keep(logits, p)
        assert len(set(kept)) == len(kept) >= 1
        assert share[kept].sum() >= p - 1e-4
    kept = top_p(logits, p)
    assert share[kept].sum() - share[kept].min() < p + 1e-4  # none could be left out
    assert share[kept].min() >= np.delete(share, kept).max(initial=0.0) - 1e-12
    assert set(np.flatnonzero(share > 1.001 * p * share.max())) <= set(min_p(logits, p))
    assert set(min_p(logits, p)) <= set(np.flatnonzero(share >= 0.999 * p * share.max()))


def slow_typical(logits: Floats, p: float) -> set[int]:
    """As in the paper: all are sorted."""
    share = softmax(logits).astype(np.float64)
    surprise = -np.log(np.maximum(share, 1e-300))
    order = np.abs(surprise - (share * surprise).sum()).argsort(kind="stable")
    return set(order[: 1 + int(np.searchsorted(share[order].cumsum(), p))].tolist())


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.99])
def test_what_is_not_sorted_would_not_be_kept(p: float) -> None:
    for seed in range(20):
        logits = likely_text(seed, 800).numpy()
        assert set(typical(logits, p).tolist()) == slow_typical(logits, p)


@given(LOGITS, st.data())
@settings(max_examples=100, deadline=None)
def test_something_is_always_left(values: list[float], data: st.DataObject) -> None:
    logits, ids = torch.tensor(values), st.integers(0, len(values) - 1)
    config = SamplingConfig(
        temperature=data.draw(st.sampled_from([0, 1e-3, 1.0, 900.0])),
        top_k=data.draw(st.integers(0, 5)),
        top_p=data.draw(st.sampled_from([1e-6, 0.5, 1.0])),
        min_p=data.draw(st.sampled_from([0.0, 0.3, 1.0])),
        typical_p=data.draw(st.sampled_from([1e-6, 0.5, 1.0])),
        repetition_penalty=data.draw(st.sampled_from([0.01, 1.0, 100.0])),
        presence_penalty=data.draw(st.sampled_from([-2.0, 0.0, 2.0])),
        logit_bias=data.draw(st.dictionaries(ids, st.floats(-100, 100), max_size=5)),
    )
    sampler = Sampler(config, data.draw(st.lists(ids, max_size=5)))
    forbidden = data.draw(st.lists(ids))
    token = sampler.choose(logits, forbidden)
    assert 0 <= token < len(values)
    assert token not in forbidden or set(forbidden) == set(range(len(values)))


def test_draws_follow_the_probabilities() -> None:
    """Chi-square: 2 x 30,000 draws, beside each other and one after another."""
    shares = np.array([0.5, 0.2, 0.15, 0.1, 0.04, 0.01])
    logits = torch.from_numpy(np.log(shares)).float()
    follow = Sampler(PLAIN, [])
    in_turn = [follow.choose(logits) for _ in range(30_000)]
    ids = np.arange(6)
    across = [int((logits.numpy() + gumbel_noise(ids, seed, 1)).argmax()) for seed in range(30_000)]
    for draws in (in_turn, across):
        observed = np.bincount(draws, minlength=6)
        assert ((observed - 30_000 * shares) ** 2 / (30_000 * shares)).sum() < 20.5  # of 5 degrees: p = 0.001


def test_draws_do_not_depend_on_each_other() -> None:
    """Neither those that follow each other, nor those of neighbouring seeds, agree more often than chance has it."""
    logits = torch.zeros(16)
    rows = [
        [sampler.choose(logits) for _ in range(2000)]
        for sampler in (Sampler(SamplingConfig(1, seed=s), []) for s in (5, 6))
    ]
    for first, second in ((rows[0][1:], rows[0][:-1]), rows):
        same = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
        assert abs(same - 1 / 16) < 4 * (1 / 16 * 15 / 16 / 2000) ** 0.5


def test_what_is_filtered_does_not_change_what_is_drawn_among_the_rest() -> None:
    """The noise of an id is its own: dropping ids that would not win changes nothing."""
    for seed in range(30):
        logits = likely_text(seed, 300)
        free, kept = (Sampler(SamplingConfig(1, k, top_p=1, seed=seed), []).choose(logits) for k in (0, 60))
        assert free == kept or free not in logits.topk(60).indices


def test_a_copy_goes_on_by_itself() -> None:
    logits = likely_text(0, 50)
    sampler = Sampler(SamplingConfig(1, seed=3, repetition_penalty=1.5), [1, 2])
    sampler.accept(sampler.choose(logits))
    copied = sampler.copy()
    drawn = [copied.choose(logits) for _ in range(10)]
    for token in range(50):
        copied.accept(token)
    assert drawn == [sampler.choose(logits) for _ in range(10)]
    assert np.array_equal(sampler.candidates(logits)[1], sampler.copy().candidates(logits)[1])
    assert not np.array_equal(sampler.candidates(logits)[1], copied.candidates(logits)[1])


def test_logits_are_left_as_they_are() -> None:
    logits = likely_text(1, 50)
    before = logits.clone()
    Sampler(SamplingConfig(1, 3, logit_bias={1: 5.0}, repetition_penalty=2.0), [1, 2]).choose(logits, [4])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_no_numbers(broken: float) -> None:
    for temperature in (0, 1):
        with pytest.raises(UserError, match="no finite numbers"):
            Sampler(SamplingConfig(temperature), []).choose(torch.tensor([1.0, broken, 2.0]))
    with pytest.raises(UserError, match="no finite numbers"):
        Sampler(PLAIN, []).choose(torch.full((3,), -math.inf))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", math.nan),
        ("temperature", 1e-4),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("typical_p", 0.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", 2.1),
        ("frequency_penalty", math.nan),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {1: math.nan}),
        ("seed", 2**63),
        ("n", 0),
        ("logprobs", -1),
        ("min_tokens", 300),
        ("stop", ("",)),
    ],
)
def test_settings_that_make_no_sense(name: str, value: object) -> None:
    with pytest.raises(UserError, match=name):
        SamplingConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [{"logit_bias": {50: 1.0}}, {"logit_bias": {-1: 1.0}}, {"stop_ids": (50,)}])
def test_ids_that_the_model_lacks(ids: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"the model knows 0 to 49"):
        SamplingConfig(**ids).check_ids(50)  # type: ignore[arg-type]
