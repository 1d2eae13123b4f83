"""AdamW, clipping and schedules against torch and against their formulas."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from fromzero.model import ModelConfig, Transformer
from fromzero.training.optimizers.adam import AdamW, clip_gradients, decay_groups
from fromzero.training.schedule import learning_rate
from fromzero.training.settings import TrainConfig


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.8, 0.999)])
def test_adamw_equals_torchs(weight_decay: float, betas: tuple[float, float]) -> None:
    ours, theirs = small_model(), small_model()
    our_optimizer = AdamW(ours.parameters(), lr=1e-2, betas=betas, weight_decay=weight_decay)
    their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=betas, weight_decay=weight_decay)
    for step in range(20):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, our_optimizer), (theirs, their_optimizer)):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (step + 1)
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_adamw_state_is_restored_exactly() -> None:
    model = small_model()
    optimizer = AdamW(model.parameters(), lr=1e-2)

    def steps(model: nn.Module, optimizer: AdamW) -> None:
        for step in range(3):
            model(torch.full((2, 6), float(step))).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    steps(model, optimizer)
    twin = copy.deepcopy(model)
    twin_optimizer = AdamW(twin.parameters(), lr=1.0)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(model, optimizer)
    steps(twin, twin_optimizer)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_adamw_skips_parameters_without_gradients() -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = AdamW([first, second], lr=0.1)
    first.sum().backward()
    optimizer.step()
    assert torch.equal(second, torch.ones(2))
    assert not torch.equal(first, torch.ones(2))


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_clipping_equals_torchs(max_norm: float) -> None:
    ours, theirs = small_model(), small_model()
    for model in (ours, theirs):
        model(torch.ones(4, 6)).square().sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    assert clip_gradients(ours.parameters(), max_norm) == pytest.approx(float(norm), rel=1e-6)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_clipping_leaves_bad_gradients_to_be_seen() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([math.nan, 1.0])
    assert math.isnan(clip_gradients([parameter], 1.0))
    assert float(parameter.grad[1]) == 1.0
    assert clip_gradients([nn.Parameter(torch.ones(1))], 1.0) == 0.0


def test_only_matrices_decay() -> None:
    model = Transformer(ModelConfig(vocab_size=8, layers=1, width=8, heads=2, norm="layer", bias=True))
    decayed, others = (group["params"] for group in decay_groups(model.named_parameters(), 0.1))
    assert all(p.dim() == 2 for p in decayed)
    assert all(p.dim() == 1 for p in others)
    assert len(decayed) + len(others) == len(list(model.parameters()))


def test_the_cosine_schedule() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.1)
    middle = 10 + 89 / 2
    assert (rates[math.floor(middle)] + rates[math.ceil(middle)]) / 2 == pytest.approx(0.55, abs=1e-3)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_the_warmup_stable_decay_schedule() -> None:
    config = TrainConfig(
        steps=100, warmup_steps=10, learning_rate=2.0, schedule="wsd", decay_share=0.2, final_learning_rate=0.0
    )
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[9:80] == [2.0] * 71
    assert rates[89] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.0)


def test_short_runs_have_finite_rates() -> None:
    for steps in (1, 2, 3):
        for schedule in ("cosine", "wsd"):
            config = TrainConfig(steps=steps, warmup_steps=100, schedule=schedule)  # type: ignore[arg-type]
            assert all(0 < learning_rate(step, config) <= config.learning_rate for step in range(steps))
