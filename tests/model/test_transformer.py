"""The composable Transformer: shapes, counts, causality, equality of fast and plain attention."""

import itertools
from dataclasses import replace

import pytest
import torch

from fromzero.errors import UserError
from fromzero.model import PRESETS, ModelConfig, Transformer
from fromzero.model.initialize import STANDARD_DEVIATION

TINY = ModelConfig(vocab_size=50, context=16, layers=2, width=24, heads=4, kv_heads=2)
GPT = replace(TINY, positions="learned", norm="layer", activation="gelu_tanh", bias=True, kv_heads=None)
ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("positions", "norm", "activation", "bias", "tied"),
    itertools.product(
        ("rotary", "learned"),
        ("rms", "layer"),
        ("swiglu", "geglu", "gelu", "relu_squared"),
        (True, False),
        (True, False),
    ),
)
def test_every_mix_runs_and_every_parameter_learns(
    positions: str, norm: str, activation: str, bias: bool, tied: bool
) -> None:
    config = replace(TINY, positions=positions, norm=norm, activation=activation, bias=bias, tied=tied)  # type: ignore[arg-type]
    model = Transformer(config)
    logits = model(ids)
    assert logits.shape == (2, 12, 50)
    logits.logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith("key.bias"):  # a shift of all keys by one vector changes no softmax without rotation
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("name", "published"),
    [("gpt2-124m", 124_439_808), ("gpt2-355m", 354_823_168), ("gpt2-774m", 774_030_080), ("gpt2-1558m", 1_557_611_200)],
)
def test_published_parameter_counts(name: str, published: int) -> None:
    with torch.device("meta"):
        model = Transformer(PRESETS[name])
    assert model.parameter_count() == published
    assert published - model.parameter_count(embeddings=False) == (50257 + 1024) * PRESETS[name].width


def test_flops_are_six_for_each_weight_and_attention_on_top() -> None:
    model = Transformer(replace(TINY, kv_heads=4, width=32, ffn_width=64))
    matrices = 2 * (4 * 32 * 32 + 3 * 32 * 64) + 50 * 32
    assert model.flops_per_token() == 6 * matrices + 6 * 2 * 32 * 16


def test_initialisation_is_seeded_and_scaled() -> None:
    config = replace(TINY, width=256, layers=8)
    model, same, other = Transformer(config, seed=1), Transformer(config, seed=1), Transformer(config, seed=2)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
    assert not torch.equal(model.token_embedding.weight, other.token_embedding.weight)
    block = model.blocks[0]
    assert float(block.attention.query.weight.detach().std()) == pytest.approx(STANDARD_DEVIATION, rel=0.05)  # type: ignore[union-attr,operator]
    assert float(block.feed_forward.down.weight.detach().std()) == pytest.approx(STANDARD_DEVIATION / 4, rel=0.05)  # type: ignore[union-attr,operator]


def test_dropout_only_in_training() -> None:
    model = Transformer(replace(TINY, dropout=0.5))
    assert torch.equal(model.eval()(ids), model(ids))
    assert not torch.equal(model.train()(ids), model(ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, r"model\.heads \(5\) does not divide model\.width \(24\)"),
        ({"kv_heads": 3}, r"kv_heads \(3\) does not divide"),
        ({"width": 12}, "even width, not 3"),
        ({"layers": 0}, r"model\.layers is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"kv_heads": -2}, r"model\.kv_heads is -2"),
        ({"ffn_width": 0}, r"model\.ffn_width is 0"),
        ({"norm_eps": -1.0}, r"model\.norm_eps \(-1\.0\)"),
    ],
)
def test_shapes_that_contradict_themselves(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(TINY, **changes)  # type: ignore[arg-type]


def test_past_the_context_and_without_a_vocabulary() -> None:
    with pytest.raises(UserError, match="17 tokens do not fit the model's context of 16"):
        Transformer(TINY)(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(UserError, match="vocab_size is 0"):
        Transformer(replace(TINY, vocab_size=0))
    with pytest.raises(UserError, match="50, but the tokenizer has 60"):
        TINY.with_vocab(60)
