"""LoRA: nothing changes at first, merged equals unmerged, and what is frozen stays as it is."""

import copy

import pytest
import torch

from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.model.adapters import AdapterConfig, adapters, add_adapters, merge_adapters, without_adapters

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
