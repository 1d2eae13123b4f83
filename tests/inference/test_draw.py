"""The compiled draw against the plain one."""

import math

import numpy as np
import pytest
import torch

from fromzero.inference.sampling import gumbel_noise, noise_key
from fromzero.kernels.draw import draw, logprob


def some_logits(count: int, spread: float, seed: int, missing: bool) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(count) * spread).astype(np.float32)
    if missing:
        logits[random.integers(0, count, count // 2)] = -np.inf
        logits[random.integers(0, count)] = 1.0
    return logits


@pytest.mark.parametrize("count", [1, 5, 256, 300, 4096])
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0, 1000.0])
@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 50.0])
def test_what_wins_is_what_wins_plainly(count: int, spread: float, temperature: float) -> None:
    for seed in range(40):
        logits = some_logits(count, spread, seed, missing=seed % 3 == 0)
        noisy = logits / np.float32(temperature) + gumbel_noise(np.arange(count), seed, 7)
        found = draw(logits, temperature, *noise_key(seed, 7))
        assert noisy[found] >= noisy.max() - abs(noisy.max()) * 2**-22


@pytest.mark.parametrize("count", [1, 300, 50_000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_logprobs(count: int, temperature: float) -> None:
    for seed in range(10):
        logits = some_logits(count, 5.0, seed, missing=seed % 2 == 0)
        expected = torch.from_numpy(logits).double().div(temperature).log_softmax(-1)
        for token in (0, count // 2, int(logits.argmax())):
            assert logprob(logits, temperature, token) == pytest.approx(expected[token].item(), rel=1e-6, abs=2e-6)


@pytest.mark.parametrize("wrong", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 150, 299])
def test_what_is_no_number_is_seen(wrong: float, place: int) -> None:
    logits = some_logits(300, 1.0, 0, missing=False)
    logits[place] = wrong
    assert draw(logits, 1.0, *noise_key(0, 1)) == -1
    assert draw(np.full(3, -np.inf, np.float32), 1.0, *noise_key(0, 1)) == -1
