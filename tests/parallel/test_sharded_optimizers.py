"""Optimizers on parameters that ranks share: every placement takes the steps of one process."""

from collections.abc import Iterable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from fromzero.training.optimizers import SGD, Adafactor, Adam, AdamW, Lion, Muon
from tests.parallel.ranks import run_ranks

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: SGD(p, 0.005, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: Adam(p, 0.01, weight_decay=0.1),
    "adamw": lambda p: AdamW(p, 0.01),
    "adamw, plain": lambda p: AdamW(p, 0.01, fused=False),
    "adafactor": lambda p: Adafactor(p, 0.05, weight_decay=0.1),
    "lion": lambda p: Lion(p, 0.01, weight_decay=0.1),
    "muon": lambda p: Muon([{"params": [w], "use_muon": w.dim() > 1} for w in p]),
}  # fmt: skip
SHAPES = ((6, 4), (6, 4), (5, 8), (1, 4), (3, 4, 6), (7,))  # some don't divide, some leave a rank with nothing
STEPS = 20


def value(index: int, step: int) -> Tensor:
    return torch.randn(SHAPES[index], generator=torch.Generator().manual_seed(1000 * step + index))


def alone(name: str) -> list[Tensor]:
    parameters = [nn.Parameter(value(i, 0)) for i in range(len(SHAPES))]
    optimizer = OPTIMIZERS[name](parameters)
    for step in range(1, STEPS + 1):
        for i, parameter in enumerate(parameters):
            parameter.grad = value(i, step)
        optimizer.step()
    return [p.detach() for p in parameters]


def shared(name: str, mesh: Any, placements: Any) -> list[Tensor]:
    """The same with DTensors; the placements of a shape, or None for plain parameters that all ranks have."""

    def place(i: int, step: int) -> DTensor:
        return distribute_tensor(value(i, step), mesh, placements(len(SHAPES[i])))

    parameters = [nn.Parameter(place(i, 0)) for i in range(len(SHAPES))]
    optimizer = OPTIMIZERS[name](parameters)
    for step in range(1, STEPS + 1):
        for i, parameter in enumerate(parameters):
            parameter.grad = place(i, step)
        optimizer.step()
    for parameter in parameters:
        for key, state in optimizer.state[parameter].items():
            if key in ("row_var", "col_var"):  # small, and whole everywhere
                assert not isinstance(state, DTensor)
            elif isinstance(state, Tensor):
                assert isinstance(state, DTensor)
                assert state.placements == parameter.placements  # type: ignore[attr-defined]
    return [p.detach().full_tensor() for p in parameters]  # type: ignore[attr-defined]


def difference(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def two_ranks() -> dict[str, float]:
    mesh = init_device_mesh("cpu", (2,))
    kinds = {
        "rows": lambda dims: [Shard(0)],
        "columns": lambda dims: [Shard(dims - 1)],
    }
    found = compared(mesh, kinds)
    return found | {f"{name}, fully_shard": fully_sharded(name, mesh) for name in OPTIMIZERS}


def four_ranks() -> dict[str, float]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    kinds = {
        "copies of rows": lambda dims: [Replicate(), Shard(0)],
        "rows and columns": lambda dims: [Shard(0), Shard(dims - 1)] if dims > 1 else [Shard(0), Replicate()],
    }
    return compared(mesh, kinds, ("adamw", "adafactor", "muon"))


def compared(mesh: Any, kinds: dict[str, Any], names: Iterable[str] = OPTIMIZERS) -> dict[str, float]:
    return {
        f"{name}, {kind}": difference(alone(name), shared(name, mesh, placements))
        for name in names
        for kind, placements in kinds.items()
    }


def fully_sharded(name: str, mesh: Any) -> float:
    """Through torch's FSDP, with gradients of its own."""

    def model() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))

    plain, split = model(), cast(Any, model())
    fully_shard(split, mesh=mesh)
    split.set_gradient_divide_factor(1.0)
    split.set_force_sum_reduction_for_comms(True)
    both = [(m, OPTIMIZERS[name](list(m.parameters()))) for m in (plain, split)]
    rank = torch.distributed.get_rank()
    for step in range(STEPS):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        for m, optimizer in both:
            rows = x if m is plain else x[rank::2]
            (m(rows) - rows[:, :3].sin()).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    whole = [p.detach().full_tensor() for p in split.parameters()]
    return difference([p.detach() for p in plain.parameters()], whole)


@pytest.mark.parametrize(("ranks", "check"), [(2, two_ranks), (4, four_ranks)])
def test_parts_take_the_steps_of_the_whole(ranks: int, check: Any) -> None:
    for found in run_ranks(ranks, check):
        assert {name: d for name, d in found.items() if not d < 1e-6} == {}
