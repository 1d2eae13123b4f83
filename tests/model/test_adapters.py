"""LoRA, DoRA, QLoRA: nothing changes at first, merged equals unmerged, and what is frozen stays as it is."""

import copy
from typing import Any

import pytest
import torch

from fromzero.errors import UserError
from fromzero.interop.huggingface import unquantized
from fromzero.model import ModelConfig, Transformer
from fromzero.model.adapters import (
    Adapted,
    AdapterConfig,
    adapters,
    add_adapters,
    merge_adapters,
    plain_state,
    without_adapters,
)
from fromzero.model.layers import Linear
from fromzero.model.narrow import to_compute
from fromzero.model.quantized import QuantizedMatrix, round_to_nearest
from fromzero.model.rounding import round_model

IDS = torch.arange(12).view(2, 6)


def adapted(seed: int = 0, **settings: object) -> tuple[Transformer, Transformer]:
    """A model, and the same with adapters that say something."""
    model = Transformer(ModelConfig(layers=2, width=32, heads=2, context=16, vocab_size=20), seed=1)
    other = copy.deepcopy(model)
    add_adapters(other, AdapterConfig(rank=4, **settings), seed)  # type: ignore[arg-type]
    torch.testing.assert_close(other(IDS), model(IDS), rtol=0, atol=0)
    for _, module in adapters(other):
        torch.nn.init.normal_(module.up.weight, std=0.5, generator=torch.Generator().manual_seed(2))
    return model, other


def test_merged_is_unmerged_and_without_is_before() -> None:
    model, other = adapted()
    said = other(IDS)
    assert not torch.allclose(said, model(IDS), atol=1e-2)
    with without_adapters(other):
        torch.testing.assert_close(other(IDS), model(IDS), rtol=0, atol=0)
    torch.testing.assert_close(other(IDS), said, rtol=0, atol=0)
    merge_adapters(other)
    assert list(other.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(other(IDS), said, rtol=1e-5, atol=1e-5)


def test_only_adapters_learn() -> None:
    _, other = adapted()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    learned = [p for p in other.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learned) == sum(
        m.up.weight.numel() + m.down.weight.numel() for _, m in adapters(other)
    )
    other(IDS).square().sum().backward()
    torch.optim.SGD(learned, 0.1).step()
    for name, tensor in other.state_dict().items():
        same = torch.equal(tensor, before[name])
        assert same == (
            (".up." not in name.split("base")[0] and ".down." not in name.split("base")[0]) or ".base." in name
        ), name


def test_targets_name_layers() -> None:
    model, other = adapted(targets=("query", "value"))
    assert {name.split(".")[-1] for name, _ in adapters(other)} == {"query", "value"}
    with pytest.raises(UserError, match="name no linear layer"):
        add_adapters(model, AdapterConfig(targets=("quary",)))
    with pytest.raises(UserError, match="rank"):
        AdapterConfig(rank=0)


def test_dora_is_its_equation() -> None:
    """y = m (W + s B A) / |W + s B A| x (Liu et al. 2024, eq. 5), s = alpha / sqrt(rank) when rank-stabilised."""
    torch.manual_seed(0)
    layer = Linear(6, 5, bias=True)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    module = Adapted(layer, AdapterConfig(rank=4, alpha=3, rank_stabilized=True, decomposed=True))
    assert module.magnitude is not None
    for tensor in (module.down.weight, module.up.weight, module.magnitude):
        torch.nn.init.normal_(tensor)
    x, weight = torch.randn(2, 3, 6), layer.weight + 3 / 2 * module.up.weight @ module.down.weight
    expected = module.magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True)
    torch.testing.assert_close(module(x), x @ expected.T + layer.bias)
    torch.testing.assert_close(module.merged(), expected)


@pytest.mark.parametrize("few_bits", ["int8", "int4"])
@pytest.mark.parametrize("decomposed", [False, True])
def test_in_few_bits(few_bits: Any, decomposed: bool) -> None:
    """Losses and gradients are those of the plain model that the few bits stand for."""
    model = Transformer(ModelConfig(layers=2, width=32, heads=2, context=16, vocab_size=20), seed=1)
    round_model(model, few_bits)
    plain = unquantized(model)
    targets = torch.arange(1, 13)
    found = []
    each: Any
    for each in (model, plain):
        add_adapters(each, AdapterConfig(rank=4, decomposed=decomposed))
        for _, module in adapters(each):
            torch.nn.init.normal_(module.up.weight, std=0.5, generator=torch.Generator().manual_seed(2))
        x_ND = each.hidden(IDS).flatten(0, 1)
        loss = each.head.loss(x_ND, each.head_weight, targets)
        logprobs = each.head.logprobs(x_ND, each.head_weight, targets)
        (loss + (logprobs * torch.arange(12)).sum()).backward()
        found.append([loss.detach(), logprobs.detach(), *(p.grad for p in each.parameters() if p.requires_grad)])
    assert len(found[0]) > 20
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    merged = unquantized(model)
    torch.testing.assert_close(merged(IDS), model(IDS), rtol=1e-4, atol=1e-5)
    assert not any(".base." in name or name.endswith("codes") for name in merged.state_dict())
    with pytest.raises(UserError, match="can't be merged"):
        merge_adapters(model)


def test_no_unpacked_matrix_is_kept_for_the_backward_pass() -> None:
    matrix = QuantizedMatrix(round_to_nearest(torch.randn(96, 64), 4, 32))
    x = torch.randn(3, 64, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):  # type: ignore[func-returns-value]
        y = matrix.times(x)
    assert sum(kept) == 0
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, matrix.weight.sum(0).expand(3, 64))


def test_frozen_in_two_bytes_learned_in_four() -> None:
    model = Transformer(ModelConfig(layers=1, width=32, heads=2, context=16, vocab_size=20), seed=1)
    to_compute(model, torch.bfloat16)
    add_adapters(model, AdapterConfig(rank=2))
    for _, module in adapters(model):
        torch.nn.init.normal_(module.up.weight)
        assert module.base.weight.dtype == torch.bfloat16
        assert module.up.weight.dtype == torch.float32
    model(IDS).float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad and p.grad is not None)
    merged = dict(plain_state(model))
    assert merged["blocks.0.attention.query.weight"].dtype == torch.float32  # what is added is not rounded away
