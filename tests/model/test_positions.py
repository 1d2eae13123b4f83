"""Positions against transformers' own functions, and by hand."""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from fromzero.model import ModelConfig
from fromzero.model.block import Stack
from fromzero.model.config import RopeScaling
from fromzero.model.positions import Angles, alibi_slopes, attention_factor, relative_buckets, scaled_frequencies
from fromzero.model.scene import Tokens


@pytest.mark.parametrize(
    ("scaling", "theirs"),
    [
        (RopeScaling("linear", 4.0), {"rope_type": "linear"}),
        (RopeScaling("yarn", 4.0, 4096), {"rope_type": "yarn", "original_max_position_embeddings": 4096}),
        (
            RopeScaling("yarn", 40.0, 512, beta_fast=20.0, beta_slow=2.0, attention_factor=1.25),
            {"rope_type": "yarn", "original_max_position_embeddings": 512, "beta_fast": 20.0, "beta_slow": 2.0,
             "attention_factor": 1.25},
        ),
        (
            RopeScaling("llama3", 8.0, 8192),
            {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 8192},
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_scaled_frequencies_are_those_of_transformers(
    scaling: RopeScaling, theirs: dict[str, object], base: float
) -> None:
    rope = {"rope_theta": base, "factor": scaling.factor, **theirs}
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=32768, rope_parameters=rope)
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling.kind](config, torch.device("cpu"))
    torch.testing.assert_close(scaled_frequencies(64, base, scaling).float(), frequencies)
    assert attention_factor(scaling) == pytest.approx(factor)


def test_ntk_keeps_the_fastest_pair_and_divides_the_slowest() -> None:
    plain, scaled = (scaled_frequencies(64, 1e4, s) for s in (None, RopeScaling("ntk", 8.0)))
    assert float(scaled[0]) == 1
    assert float(scaled[-1]) == pytest.approx(float(plain[-1]) / 8)


def test_tables_grow_and_stay_the_same() -> None:
    angles, device = Angles(8, 100.0, 5000, RopeScaling("yarn", 4.0, 64)), torch.device("cpu")
    short = angles.at(slice(3, 7), device)
    rows = len(angles._tables[device][0])
    far = angles.at(slice(3, 4000), device)
    assert rows == 256 < len(angles._tables[device][0]) == 4096
    for a, b, c in zip(short, far, angles.at(torch.tensor([[3, 4, 5, 6]]), device), strict=True):
        assert torch.equal(a, b[:4])
        assert torch.equal(a, c[0])
    assert float(far[0][0, 0]) == pytest.approx(math.cos(3) * (0.1 * math.log(4) + 1))


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12, 16])
def test_alibi_slopes_are_those_of_bloom(heads: int) -> None:
    theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(torch.tensor(alibi_slopes(heads)), theirs)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 12)])
def test_relative_buckets_are_those_of_t5(buckets: int, furthest: int, both_ways: bool) -> None:
    distances = torch.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(distances, both_ways, buckets, furthest)
    assert torch.equal(relative_buckets(distances, buckets, furthest, both_ways), theirs)


def test_sinusoids_by_hand() -> None:
    config = ModelConfig(vocab_size=9, context=8, layers=1, width=6, heads=1, positions="sinusoidal")
    added = Stack(config, 1, causal=True).embedded(torch.zeros(1, 8, 6), _tokens(8), None)[0]
    for place in range(8):
        for i in range(3):
            angle = place / 10000 ** (2 * i / 6)
            assert added[place, 2 * i : 2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)])


def _tokens(count: int) -> Tokens:
    return Tokens(0, count, torch.device("cpu"))
