"""Each step of the textbook against torch's fused attention, and the last against the model's own."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fromzero.model import textbook
from fromzero.model.attention import Attention
from fromzero.model.scene import Scene
from tests.model.shapes import TINY

generator = torch.Generator().manual_seed(0)
x = torch.randn(2, 7, 24, generator=generator)
matrices = tuple(torch.randn(3, 24, 24, generator=generator) / 5)
q, k, v = (x @ m.T for m in matrices)
output = torch.randn(24, 24, generator=generator)


def test_without_weights() -> None:
    torch.testing.assert_close(textbook.simplified_self_attention(x), F.scaled_dot_product_attention(x, x, x, scale=1))


def test_with_weights() -> None:
    torch.testing.assert_close(textbook.self_attention(x, matrices), F.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(textbook.attention_weights(q, k).sum(-1), torch.ones(2, 7))


def test_causal() -> None:
    found = textbook.causal_self_attention(x, matrices)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_dropout_keeps_the_mean() -> None:
    many = x[:1].expand(4000, -1, -1)
    dropped = textbook.causal_self_attention(many, matrices, 0.3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(dropped.mean(0), textbook.causal_self_attention(x[0], matrices), atol=0.1, rtol=0.1)
    assert float((dropped[:, 0] == 0).all(-1).float().mean()) == pytest.approx(0.3, abs=0.03)  # it sees itself alone


def test_heads_stacked_split_and_the_models_own_are_one() -> None:
    attention = Attention(replace(TINY, kv_heads=None))
    for name, matrix in zip(("query", "key", "value", "output"), (*matrices, output), strict=True):
        attention.load_state_dict({f"{name}.weight": matrix}, strict=False)
    fast = attention(x, Scene(7, causal=True))
    torch.testing.assert_close(textbook.split_heads(x, matrices, 4, output), fast)
    heads = [tuple(m[start : start + 6] for m in matrices) for start in range(0, 24, 6)]
    torch.testing.assert_close(textbook.stacked_heads(x, heads, output), fast)  # type: ignore[arg-type]
