"""The global norm of gradients, however they are placed, and a clip that bites."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

from fromzero.parallel.fleet import full
from fromzero.parallel.mesh import Mesh
from fromzero.parallel.norm import clip_gradients
from tests.parallel.ranks import run_ranks

SIZES = {"pipeline": 1, "replicate": 1, "shard": 2, "context": 1, "tensor": 2}
SHAPES = {"rows": (5, 4), "columns": (4, 6), "both": (6, 8), "twice": (7, 3), "same": (3, 3), "plain": (4,)}
PLACEMENTS: dict[str, list[Placement]] = {
    "rows": [Shard(0), Replicate()],  # uneven
    "columns": [Replicate(), Shard(1)],
    "both": [Shard(0), Shard(1)],
    "twice": [Shard(0), Shard(0)],
    "same": [Replicate(), Replicate()],
}


def gradients(names: list[str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return {name: drawn[name] for name in names}


def with_gradient(gradient: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient
    return parameter


def on_a_rank() -> dict[str, object]:
    mesh = Mesh("cpu", SIZES)
    placed = {name: gradient.clone() for name, gradient in gradients(list(SHAPES)).items()}
    for name, placements in PLACEMENTS.items():
        placed[name] = distribute_tensor(placed[name], mesh["weights", "tensor"], placements)
    parameters = {name: with_gradient(gradient) for name, gradient in placed.items()}
    unclipped = clip_gradients(parameters.items(), 0.0, mesh)
    norm = clip_gradients(parameters.items(), 0.5, mesh)
    after = {name: full(gradient).tolist() for name, gradient in placed.items()}
    if dist.get_rank() == 3:
        placed["both"].to_local()[0, 0] = math.nan  # type: ignore[attr-defined]
    return {"norms": (unclipped, norm), "after": after, "nan": clip_gradients(parameters.items(), 0.5, mesh)}


def on_a_stage() -> float:
    """Two stages with a parameter each, and one (tied) that both have and the second does not count."""
    mesh = Mesh("cpu", {**SIZES, "pipeline": 2, "shard": 1, "tensor": 1})
    first = mesh["pipeline"].get_local_rank() == 0
    own = gradients(["rows", "same"] if first else ["columns", "same"])
    parameters = {name: with_gradient(gradient) for name, gradient in own.items()}
    return clip_gradients(parameters.items(), 0.0, mesh, () if first else ("same",))


def total(names: list[str]) -> float:
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients(names).values()))


def test_parts_count_once_and_are_clipped_alike() -> None:
    expected = total(list(SHAPES))
    for found in run_ranks(4, on_a_rank):
        assert found["norms"] == pytest.approx((expected, expected), rel=1e-6)
        for name, gradient in gradients(list(SHAPES)).items():
            assert torch.allclose(torch.tensor(found["after"][name]), gradient * 0.5 / expected, rtol=1e-5, atol=1e-8)
        assert math.isnan(found["nan"]), "all ranks hear of one that has no number"


def test_stages_are_summed_and_what_they_share_counts_once() -> None:
    expected = total(["rows", "columns", "same"])
    assert run_ranks(2, on_a_stage) == pytest.approx([expected, expected], rel=1e-6)


def test_one_device_as_torch_does_it() -> None:
    own, theirs = ([with_gradient(g) for g in gradients(list(SHAPES)).values()] for _ in range(2))
    assert clip_gradients(zip(SHAPES, own, strict=True), 0.7) == pytest.approx(
        float(nn.utils.clip_grad_norm_(theirs, 0.7)), rel=1e-6
    )
    pairs = ((ours.grad, other.grad) for ours, other in zip(own, theirs, strict=True))
    assert all(a is not None and b is not None and torch.allclose(a, b, rtol=1e-5) for a, b in pairs)
