"""What holds for a Transformer of every shape: who sees whom, caches, padding, gradients, devices and dtypes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.inference import KVCache
from fromzero.model import ModelConfig, Transformer, functions
from tests.model.shapes import ALL, DECODERS, ENCODERS, TINY

ids = torch.randint(0, 50, (2, 14), generator=torch.Generator().manual_seed(0))
decoders = pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS.keys())
encoders = pytest.mark.parametrize("config", ENCODERS.values(), ids=ENCODERS.keys())
every = pytest.mark.parametrize("config", ALL.values(), ids=ALL.keys())


def disturbed(config: ModelConfig) -> Transformer:
    """A model in which no weight is small, and no norm or bias does nothing."""
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.empty(tensor.shape).normal_(0, 0.3, generator=generator))
    return model


def assert_near(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@every
def test_every_parameter_learns(config: ModelConfig) -> None:
    model = disturbed(config).train()
    x_BTD = model.hidden(ids)
    total = functions.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).sum()
    total = total + sum(y.pow(3).sum() for y in model.hidden_ahead(ids, x_BTD)) + sum(model.auxiliary_losses().values())
    total.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith("key.bias"):  # a shift of all keys by one vector changes no softmax without rotation
            assert parameter.grad.abs().sum() > 0, name


@every
def test_devices_and_dtypes_are_those_asked_for(config: ModelConfig) -> None:
    with torch.device("meta"):
        model = Transformer(config)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    if config.experts is None:  # where a token goes depends on its numbers
        assert model(ids.to("meta")).device.type == "meta"
    narrow = Transformer(config, compute_dtype=torch.bfloat16)
    assert narrow(ids).dtype == torch.bfloat16
    assert {p.dtype for p in narrow.parameters()} == {torch.float32}
    wide = Transformer(config)
    torch.testing.assert_close(narrow(ids).float(), wide(ids), rtol=0.1, atol=0.05)


@decoders
def test_no_token_sees_what_comes_after_it(config: ModelConfig) -> None:
    model = disturbed(config)
    changed = ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 50
    assert_near(model(changed)[:, :7], model(ids)[:, :7])
    assert not torch.allclose(model(changed)[:, 7:], model(ids)[:, 7:], atol=1e-2)


@encoders
def test_encoders_see_both_ways(config: ModelConfig) -> None:
    model = disturbed(config)
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    differs = (model(changed) - model(ids)).abs().amax(-1) > 1e-5
    assert differs[:, 6:9].all()


@decoders
def test_with_a_cache_as_without(config: ModelConfig) -> None:
    model, cache = disturbed(config), KVCache(config, 2, 14)
    parts = [model(part, cache) for part in ids.split([6, 3, 1, 1, 1, 1, 1], dim=1)]
    assert_near(torch.cat(parts, 1), model(ids))


@every
@pytest.mark.parametrize("left", [True, False])
def test_padded_as_unpadded(config: ModelConfig, left: bool) -> None:
    model = disturbed(config)
    padding, real = torch.full((1, 4), 3), torch.ones(1, 10, dtype=torch.bool)
    row_10, row_14 = ids[:1, :10], ids[1:]
    keep_10 = torch.cat([~real[:, :4], real] if left else [real, ~real[:, :4]], 1)
    batch = torch.cat([torch.cat([padding, row_10] if left else [row_10, padding], 1), row_14])
    keep_BT = torch.cat([keep_10, torch.ones(1, 14, dtype=torch.bool)])
    logits = model(batch, keep_BT=keep_BT)
    assert_near(logits[:1, 4:] if left else logits[:1, :10], model(row_10))
    assert_near(logits[1:], model(row_14))
    if config.kind == "decoder" and left:
        cache = KVCache(config, 2, 14)
        parts = [model(batch[:, a:b], cache, keep_BT=keep_BT[:, :b]) for a, b in ((0, 9), (9, 12), (12, 13), (13, 14))]
        assert_near(torch.cat(parts, 1)[:, 4:], logits[:, 4:])


@pytest.mark.parametrize("config", [TINY, DECODERS["gpt-2"], DECODERS["bloom"]])
def test_a_prefix_sees_itself_and_the_rest_is_causal(config: ModelConfig) -> None:
    model, prefix_B = disturbed(config), torch.tensor([5, 0])
    logits = model(ids, prefix_B=prefix_B)
    assert_near(logits[1], model(ids)[1])
    encoder = disturbed(replace(config, kind="encoder"))
    assert_near(logits[0, :5], encoder(ids[:1, :5])[0])
    assert not torch.allclose(logits[0, 4], model(ids)[0, 4], atol=1e-2)
    padded = torch.cat([torch.full((2, 3), 7), ids], 1)
    keep_BT = torch.arange(17)[None].expand(2, -1) >= 3
    assert_near(model(padded, prefix_B=prefix_B, keep_BT=keep_BT)[:, 3:], logits)


@pytest.mark.parametrize("name", ["llama", "gpt-2", "sinusoidal"])
def test_given_positions_are_those_used(name: str) -> None:
    model = disturbed(DECODERS[name])
    order = torch.arange(14).expand(2, -1)
    assert_near(model(ids, positions_BT=order), model(ids))
    assert not torch.allclose(model(ids, positions_BT=order * 2), model(ids), atol=1e-2)


def test_kinds_of_segments_are_told_apart() -> None:
    model = disturbed(ENCODERS["bert"])
    types_BT = torch.zeros_like(ids)
    assert_near(model(ids, types_BT=types_BT), model(ids))
    types_BT[:, 7:] = 1
    assert not torch.allclose(model(ids, types_BT=types_BT), model(ids), atol=1e-2)


def test_a_window_is_so_many_tokens() -> None:
    config = replace(TINY, window=5, layers=1)
    model, changed = disturbed(config), ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 50
    differs = (model(changed) - model(ids)).abs().amax(-1)[0] > 1e-5
    assert differs.tolist() == [3 <= at < 8 for at in range(14)]


def test_tables_made_while_generating_serve_training() -> None:
    model = Transformer(TINY)
    with torch.inference_mode():
        model(ids)
    model(ids).sum().backward()


def test_further_tokens_are_predicted_from_what_may_be_seen() -> None:
    model = disturbed(DECODERS["deepseek v3"])
    changed = ids.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 50
    first, second = model.hidden_ahead(ids, model.hidden(ids))
    other_first, other_second = model.hidden_ahead(changed, model.hidden(changed))
    assert (first.shape[1], second.shape[1]) == (13, 12)
    assert_near(other_first[:, :8], first[:, :8])  # place 8 predicts token 10, so it sees token 9
    assert_near(other_second[:, :7], second[:, :7])
    assert not torch.allclose(other_first[:, 8], first[:, 8], atol=1e-2)
    assert not torch.allclose(other_second[:, 7], second[:, 7], atol=1e-2)


@pytest.mark.parametrize(("field", "value"), [("kind", "encoder_decoder"), ("vocab_size", 0)])
def test_configs_that_are_no_transformer(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=field):
        Transformer(replace(TINY, **{field: value}))
