"""Each optimizer against torch's own; states, groups."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Experts
from fromzero.parallel.norm import clip_gradients
from fromzero.training import TrainConfig
from fromzero.training.optimizers import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Lion,
    Muon,
    make_optimizer,
    set_share,
)

Make = Callable[[Any], torch.optim.Optimizer]


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Steps with rates that fall, on batches that depend on the step alone."""
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        (model(x) - x[:, :3].sin()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


PAIRS: dict[str, tuple[Make, Make]] = {
    "sgd": (lambda p: SGD(p, 0.01), lambda p: torch.optim.SGD(p, 0.01)),
    "sgd, momentum, decay": (
        lambda p: SGD(p, 0.01, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.1),
    ),
    "sgd, nesterov": (
        lambda p: SGD(p, 0.01, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
    ),
    "adam": (lambda p: Adam(p, weight_decay=0.1), lambda p: torch.optim.Adam(p, weight_decay=0.1)),
    "adam, plain": (lambda p: Adam(p, fused=False, weight_decay=0.1), lambda p: torch.optim.Adam(p, weight_decay=0.1)),
    "adamw": (
        lambda p: AdamW(p, betas=(0.8, 0.999)),
        lambda p: torch.optim.AdamW(p, betas=(0.8, 0.999), weight_decay=0.1),
    ),
    "adamw, plain": (
        lambda p: AdamW(p, fused=False),
        lambda p: torch.optim.AdamW(p, betas=(0.9, 0.95), weight_decay=0.1),
    ),
    "adafactor": (
        lambda p: Adafactor(p, weight_decay=0.1),
        lambda p: torch.optim.Adafactor(p, weight_decay=0.1),
    ),
    "muon": (
        lambda p: Muon([w for w in p if w.dim() == 2]),
        lambda p: torch.optim.Muon([w for w in p if w.dim() == 2]),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_it_takes_the_steps_of_torchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.float)  # in which torch's Muon would compute; ours does on a GPU
    ours, theirs = small_model(), small_model()
    train(ours, PAIRS[name][0](list(ours.parameters())), range(25))
    train(theirs, PAIRS[name][1](list(theirs.parameters())), range(25))
    for before, a, b in zip(small_model().parameters(), ours.parameters(), theirs.parameters(), strict=True):
        assert name == "muon" or not torch.equal(before, a)
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


EACH: dict[str, Make] = {name: pair[0] for name, pair in PAIRS.items()} | {"lion": Lion}


@pytest.mark.parametrize("name", EACH)
def test_a_state_is_restored_exactly(name: str) -> None:
    model = small_model()
    optimizer = EACH[name](list(model.parameters()))
    train(model, optimizer, range(3))
    twin = copy.deepcopy(model)
    twin_optimizer = EACH[name](list(twin.parameters()))
    twin_optimizer.allocate()  # type: ignore[attr-defined]
    saved = copy.deepcopy(optimizer.state_dict())
    empty = twin_optimizer.state_dict()["state"]
    for index, state in saved["state"].items():  # what is allocated has the names and shapes of what is saved
        assert {k: getattr(v, "shape", ()) for k, v in state.items()} == {
            k: getattr(v, "shape", ()) for k, v in empty[index].items()
        }
        assert all(isinstance(value, int | Tensor) for value in state.values())
    twin_optimizer.load_state_dict(saved)
    train(model, optimizer, range(3, 6))
    train(twin, twin_optimizer, range(3, 6))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", EACH)
def test_parameters_without_gradients_are_left_alone(name: str) -> None:
    first, second = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
    optimizer = EACH[name]([first, second])
    (first * torch.arange(3.0)).sum().backward()
    assert optimizer.step(lambda: 7.0) == 7.0
    assert torch.equal(second, torch.ones(2, 3))
    assert second not in optimizer.state
    assert not torch.equal(first, torch.ones(2, 3))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adafactor", "lion", "muon"])
def test_the_config_names_the_optimizer(name: Any) -> None:
    model = Transformer(ModelConfig(vocab_size=8, layers=1, width=8, heads=2))
    optimizer = make_optimizer(model.named_parameters(), TrainConfig(optimizer=name, learning_rate=1e-3))
    assert type(optimizer).__name__.lower() == name
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert all(
        group["weight_decay"] == (0.1 if p.dim() > 1 else 0)
        for group in optimizer.param_groups
        for p in group["params"]
    )
    set_share(optimizer, 0.5)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == ({0.01, 5e-4} if name == "muon" else {5e-4})


def test_muon_steps_hidden_matrices_and_adamw_the_rest() -> None:
    shape = ModelConfig(
        vocab_size=8, layers=1, width=8, heads=2, tied=False, experts=Experts(count=4, shared=8, shared_gate=True)
    )
    model = Transformer(shape)
    optimizer = make_optimizer(model.named_parameters(), TrainConfig(optimizer="muon"))
    stepped = {p for group in optimizer.param_groups if group["use_muon"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if p in stepped}
    attention = {f"blocks.0.attention.{part}.weight" for part in ("query", "key", "value", "output")}
    experts = {f"blocks.0.feed_forward.experts.{part}" for part in ("up", "gate", "down")}
    shared = {f"blocks.0.feed_forward.shared.{part}.weight" for part in ("up", "gate", "down")}
    assert names == attention | experts | shared


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_clipping_equals_torchs(max_norm: float) -> None:
    ours, theirs = small_model(), small_model()
    for model in (ours, theirs):
        model(torch.ones(4, 6)).square().sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    assert clip_gradients(ours.named_parameters(), max_norm) == pytest.approx(float(norm), rel=1e-6)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_clipping_leaves_bad_gradients_to_be_seen() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([math.nan, 1.0])
    assert math.isnan(clip_gradients([("w", parameter)], 1.0))
    assert float(parameter.grad[1]) == 1.0
    assert clip_gradients([("w", nn.Parameter(torch.ones(1)))], 1.0) == 0.0
