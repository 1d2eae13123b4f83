"""Fast attention equals the plain function, in every scene; latent attention equals its own other form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fromzero.inference import KVCache
from fromzero.model import ModelConfig, Transformer, functions
from fromzero.model.attention import Attention, attend
from fromzero.model.config import Latent
from fromzero.model.latent_attention import LatentAttention
from fromzero.model.positions import relative_buckets
from fromzero.model.scene import Memory, Scene, Tokens, make_scene
from tests.model.shapes import TINY

CPU = torch.device("cpu")
RELATIVE = replace(TINY, positions="relative", relative_buckets=8, relative_distance=12)
table = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
left_padded = torch.tensor([[False, False, True, True, True, True, True], [True] * 7])


def plain_mask(config: ModelConfig, tokens: Tokens, causal: bool, window: int | None) -> Tensor:
    """Who sees whom, pair by pair: (B, H, T, S) to add to the scores."""
    keys = tokens.start + tokens.count
    keep = torch.ones(2, keys, dtype=torch.bool) if tokens.keep_BT is None else tokens.keep_BT
    mask = torch.full((2, 4, tokens.count, keys), float("-inf"))
    for b in range(2):
        for query in range(tokens.start, keys):
            for key in range(keys):
                before = int(keep[b, :key].sum())  # real tokens in front of the key
                seen = key <= query or not causal
                seen |= tokens.prefix_B is not None and before < int(tokens.prefix_B[b])
                seen &= window is None or abs(key - query) < window
                if (seen and bool(keep[b, key])) or key == query:
                    mask[b, :, query - tokens.start, key] = plain_bias(config, key - query, causal)
    return mask


def plain_bias(config: ModelConfig, distance: int, causal: bool) -> Tensor:
    if config.positions == "alibi":
        return -torch.tensor([2.0 ** (-2 * head) for head in range(1, 5)]) * abs(distance)
    if config.positions == "relative":
        return table[int(relative_buckets(torch.tensor(distance), 8, 12, not causal))]
    return torch.zeros(4)


@pytest.mark.parametrize("positions", ["rotary", "alibi", "relative"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("causal", "prefix"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("window", [None, 1, 3, 20])
@pytest.mark.parametrize("queries", [7, 3, 1])
@pytest.mark.parametrize(("softcap", "sinks"), [(None, False), (1.5, True)])
def test_fast_attention_equals_the_plain_function(
    positions: str, padded: bool, causal: bool, prefix: bool, window: int | None, queries: int,
    softcap: float | None, sinks: bool,
) -> None:  # fmt: skip
    config = replace(RELATIVE, positions=positions, window=window)  # type: ignore[arg-type]
    prefix_B = torch.tensor([3, 1]) if prefix else None
    tokens = Tokens(7 - queries, queries, CPU, left_padded if padded else None, None, prefix_B)
    q, k, v = qkv(queries)
    sinks_H = torch.arange(4.0) if sinks else None
    scene = make_scene(config, tokens, causal, True, None, table if positions == "relative" else None)
    fast = attend(q, k, v, scene, 0.5, softcap, sinks_H)
    k, v = (functions.repeat_heads(x, 2) for x in (k, v))
    mask = plain_mask(config, tokens, causal, window)
    plain = functions.scaled_dot_product_attention(q, k, v, mask, 0.5, softcap, sinks_H)
    torch.testing.assert_close(fast, plain)


def qkv(queries: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 2, 2, 7, 8, generator=generator)
    return torch.randn(2, 4, queries, 8, generator=generator), k, v


@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (1, 6), (1, 1)])
def test_plain_causal_attention_has_no_mask(queries: int, keys: int) -> None:
    scene = make_scene(replace(TINY, window=6), Tokens(keys - queries, queries, CPU), True, True)
    assert scene == Scene(keys, queries > 1, None)


def test_a_sink_takes_its_share_and_gives_nothing() -> None:
    q, k, v = qkv(7)
    k, v = (functions.repeat_heads(x, 2) for x in (k, v))
    without = functions.scaled_dot_product_attention(q, k, v)
    none = functions.scaled_dot_product_attention(q, k, v, sinks_H=torch.full((4,), float("-inf")))
    torch.testing.assert_close(none, without)
    one_key = functions.scaled_dot_product_attention(q[:, :, :1], 0 * k[:, :, :1], v[:, :, :1], sinks_H=torch.zeros(4))
    torch.testing.assert_close(one_key, v[:, :, :1] / 2)  # both scores are 0


def test_cross_attention_makes_keys_and_values_once_and_skips_padding() -> None:
    attention, generator = Attention(TINY), torch.Generator().manual_seed(0)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    x, states = torch.randn(2, 5, 24, generator=generator), torch.randn(2, 7, 24, generator=generator)
    memory = Memory(states, left_padded)
    mixed = attention.across(x, memory, layer=3)
    made = memory.pairs[3]
    torch.testing.assert_close(attention.across(x[:, 4:], memory, layer=3), mixed[:, 4:])
    assert memory.pairs[3] is made
    torch.testing.assert_close(attention.across(x[:1], Memory(states[:1, 2:]), layer=0), mixed[:1])


@pytest.mark.parametrize("shape", [Latent(12, 8, 6, 4, 5), Latent(4, None, 6, 4, 5)])
def test_the_absorbed_form_of_latent_attention_equals_the_expanded_one(shape: Latent) -> None:
    config = replace(TINY, kv_heads=None, latent=shape, layers=1)
    model = Transformer(config).eval()
    attention = model.blocks[0].attention
    assert isinstance(attention, LatentAttention)
    ids = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = []
    for absorbs in (True, False):
        attention._absorbs = lambda queries, absorbs=absorbs: absorbs  # type: ignore[method-assign]
        cache = KVCache(config, 2, 9)
        logits.append(torch.cat([model(part, cache) for part in ids.split([5, 3, 1], 1)], 1))
    torch.testing.assert_close(*logits)
    assert [store.shape[2:] for store in cache._stores] == [(1, 9, shape.kv_rank), (1, 9, 4)]
