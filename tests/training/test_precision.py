"""Compute dtypes: fp16's scale, float8's products, and narrow activations multiplied in fp32."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fromzero import device
from fromzero.device import pick_dtype
from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer, float8, wide_linear
from fromzero.model.layers import Linear
from fromzero.model.quantized import QuantizedLinear, round_to_nearest
from fromzero.parallel import Fleet, World
from fromzero.training import TrainConfig
from fromzero.training.metrics import read_metrics
from fromzero.training.objective import NextToken, next_token_loss
from fromzero.training.precision import LossScaler, use_float8
from tests.conftest import Chain
from tests.training.test_trainer import CONFIG, StoppedError, stop_at, trainer, weights

generator = torch.Generator().manual_seed(0)
SHAPE = ModelConfig(vocab_size=64, context=32, layers=2, width=32, heads=2)


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def linear(inputs: int, outputs: int, bias: bool = True) -> Linear:
    layer = Linear(inputs, outputs, bias)
    for parameter in layer.parameters():
        parameter.data = data(*parameter.shape)
    return layer


def test_the_scale_grows_after_an_interval_and_halves_after_an_overflow() -> None:
    scaler = LossScaler(torch.float16, scale=8.0, interval=2)
    assert scaler.allows(2.0, 1.0)
    assert scaler.allows(2.0, 1.0)
    assert scaler.scale == 16.0
    assert not scaler.allows(2.0, float("inf"))
    assert scaler.scale == 8.0
    assert not scaler.allows(2.0, float("nan"))
    again = LossScaler(torch.float16)
    again.load_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert (again.scale, again.good) == (4.0, 0)
    assert LossScaler(torch.float16, scale=1.0).allows(2.0, float("nan")), "left to the guard"
    assert scaler.allows(float("nan"), float("nan")), "no scale makes such a loss a number"
    assert scaler.scale == 4.0


def test_other_dtypes_are_not_scaled() -> None:
    scaler = LossScaler(torch.bfloat16)
    assert scaler.scale == 1.0
    assert scaler.allows(2.0, float("nan")), "left to the guard"


def test_gradients_in_float16_are_those_of_fp32_after_unscaling() -> None:
    ids = torch.randint(0, 64, (2, 33), generator=generator)
    found = []
    for dtype in (torch.float32, torch.float16):
        objective = NextToken(Transformer(SHAPE, 0, dtype)).train()
        fleet, scaler = Fleet(objective, World(torch.device("cpu"))), LossScaler(dtype, scale=1024.0)
        fleet.gradients(objective.prepare(ids[:, :-1], ids[:, 1:], 0), 1, 64, scaler.scale)
        scaler.unscale(fleet)
        found.append({name: p.grad for name, p in fleet.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        assert found[1][name].dtype == torch.float32
        torch.testing.assert_close(found[1][name], gradient, atol=2e-3 * float(gradient.abs().max()), rtol=0.02)


def test_a_run_in_float16_skips_overflows_and_resumes_exactly(chain: Chain, tmp_path: Path) -> None:
    config = replace(CONFIG, dtype="float16")

    def run(folder: Path, stop: int | None = None) -> dict[str, Tensor]:
        made = trainer(chain, folder, config)
        made.model.compute_dtype = torch.float16
        made.scaler.__init__(torch.float16, scale=2.0**26, interval=3)  # type: ignore[misc]
        if stop:
            stop_at(made, stop)
            with pytest.raises(StoppedError):
                made.fit()
        else:
            made.fit()
        return weights(made)

    straight = run(tmp_path / "straight")
    lines = [line for line in read_metrics(tmp_path / "straight" / "metrics.jsonl") if line["kind"] == "train"]
    assert 0 < lines[-1]["overflows"] < CONFIG.steps, "too large a scale at first, then a good one"
    assert lines[-1]["loss"] < lines[0]["loss"]
    run(tmp_path / "cut", stop=7)
    resumed = run(tmp_path / "cut")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())


def test_float8_products_are_near_and_their_gradients_too() -> None:
    layer, x = linear(64, 48), data(4, 8, 64).requires_grad_()
    plain, eighth = F.linear(x, layer.weight, layer.bias), float8.float8_linear(x, layer.weight, layer.bias)
    grad_y = data(4, 8, 48)
    wanted = torch.autograd.grad(plain, (x, *layer.parameters()), grad_y)
    found = torch.autograd.grad(eighth, (x, *layer.parameters()), grad_y)
    for ours, theirs, tolerance in zip((eighth, *found), (plain, *wanted), (0.04, 0.08, 0.08, 1e-6), strict=True):
        assert ours.dtype == theirs.dtype
        assert float(((ours - theirs).norm() / theirs.norm()).detach()) < tolerance


@pytest.mark.parametrize("dtype", [float8.FORWARD, float8.BACKWARD])
def test_the_largest_value_is_the_largest_of_the_format(dtype: torch.dtype) -> None:
    x = data(16, 16) * 1e-5
    small, factor = float8.quantize(x, dtype)
    assert small.float().abs().max() == torch.finfo(dtype).max
    worst = {float8.FORWARD: 2**-4, float8.BACKWARD: 2**-3}[dtype]  # half a step of 3 and of 2 bits of mantissa
    large = x.abs() > x.abs().max() / 64
    assert float(((small.float() * factor - x) / x)[large].abs().max()) <= worst * 1.001
    assert not float8.quantize(torch.zeros(4), dtype)[0].float().any()


def test_float8_rows_that_are_no_multiple_of_16_have_an_exact_weight_gradient() -> None:
    layer, x = linear(32, 16, bias=False), data(5, 32)
    found = torch.autograd.grad(float8.float8_linear(x, layer.weight, None).sum(), layer.weight)[0]
    torch.testing.assert_close(found, x.sum(0).expand(16, -1))


def test_float8_is_in_blocks_in_training_alone() -> None:
    model = Transformer(replace(SHAPE, ffn_width=40, tied=False), 0, torch.bfloat16)
    ids = torch.randint(0, 64, (2, 32), generator=generator)
    before = model.eval()(ids)
    assert use_float8(model, "bfloat16") == 0
    assert use_float8(model, "float8") == 2 * 4, "queries, keys, values and outputs; 40 is no multiple of 16"
    assert torch.equal(model.eval()(ids), before)
    loss = next_token_loss(model.train(), ids, ids.roll(-1, 1))
    loss.backward()
    wanted = next_token_loss(model.eval(), ids, ids.roll(-1, 1))
    assert loss != wanted
    torch.testing.assert_close(loss, wanted, rtol=0.02, atol=0)


def test_a_model_learns_in_float8() -> None:
    model = Transformer(SHAPE, 0, torch.bfloat16).train()
    use_float8(model, "float8")
    ids = torch.randint(0, 64, (4, 33), generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        loss = next_token_loss(model, ids[:, :-1], ids[:, 1:]) / 128
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]


def test_float8_elsewhere_is_refused() -> None:
    with pytest.raises(UserError, match="float8 needs an NVIDIA GPU"):
        pick_dtype("float8", torch.device("cpu"))
    assert TrainConfig(dtype="float8").dtype == "float8"


@pytest.mark.gpu
def test_float8_on_a_gpu() -> None:
    if torch.cuda.get_device_capability() < device.FLOAT8_CAPABILITY:
        pytest.skip("this GPU has no float8")
    layer, x = linear(256, 512).cuda(), data(64, 256).cuda().bfloat16().requires_grad_()
    found = float8.float8_linear(x, layer.weight, layer.bias)
    wanted = F.linear(x, layer.weight.bfloat16(), layer.bias.bfloat16())  # type: ignore[union-attr]
    assert float((found - wanted).norm() / wanted.norm()) < 0.05
    found.sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_activations_multiplied_in_fp32(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(wide_linear, "narrow_products_pay", lambda *_: False)
    layer, x = linear(24, 20), data(3, 5, 24).to(dtype).requires_grad_()
    found, wanted = layer(x), F.linear(x.float(), layer.weight, layer.bias)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted.to(dtype), rtol=0, atol=0)
    grad_y = data(3, 5, 20).to(dtype)
    gradients = torch.autograd.grad(found, (x, *layer.parameters()), grad_y)
    expected = torch.autograd.grad(wanted, (x, *layer.parameters()), grad_y.float())
    assert gradients[0].dtype == dtype
    assert gradients[1].dtype == torch.float32
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=0.01 if ours.dtype == dtype else 1e-5, atol=1e-5)


def test_narrow_and_packed_weights_multiplied_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_linear, "narrow_products_pay", lambda *_: False)
    narrow, x, grad_y = linear(64, 20).to(torch.bfloat16), data(5, 64).bfloat16(), data(5, 20).bfloat16()
    packed = QuantizedLinear(round_to_nearest(narrow.weight.detach(), 4, 32))
    for layer in (narrow, packed):
        inputs = x.clone().requires_grad_()
        found, bias = layer(inputs), 0 if layer.bias is None else layer.bias.float()
        wanted = x.float() @ layer.weight.float().T + bias
        torch.testing.assert_close(found, wanted.bfloat16(), rtol=0, atol=0)
        found.backward(grad_y)
        slope = (grad_y.float() @ layer.weight.float()).bfloat16()
        torch.testing.assert_close(inputs.grad, slope, rtol=0, atol=0)


def test_both_ways_to_multiply_give_one_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = Transformer(SHAPE, 0, torch.bfloat16).train(), torch.randint(0, 64, (2, 32), generator=generator)
    losses = []
    for pays in (True, False):
        monkeypatch.setattr(wide_linear, "narrow_products_pay", lambda *_, pays=pays: pays)
        losses.append(next_token_loss(model, ids, ids.roll(-1, 1)))
    torch.testing.assert_close(losses[0], losses[1], rtol=2e-3, atol=0)
    assert losses[0].dtype == losses[1].dtype == torch.float32
