"""The global norm of gradients that are spread over ranks, and clipping by it.

Each rank squares and sums what it has. A tensor that ranks have parts of is summed over just those dimensions of the
mesh along which it is cut, so what ranks have in common counts once; the stages of a pipeline are summed last.
"""

import math
from collections.abc import Collection, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fromzero.parallel.mesh import Mesh, local


@torch.no_grad()
def clip_gradients(
    named: Iterable[tuple[str, nn.Parameter]],
    max_norm: float,
    mesh: Mesh | None = None,
    copies: Collection[str] = (),
) -> float:
    """Scale all gradients in place so that their global L2 norm is at most `max_norm`; the norm before that.

    0 measures without clipping. A norm that is not finite is returned as it is, and nothing is scaled. mesh: of all
    ranks, which must call it together; copies: names that count on another stage of the pipeline.
    """
    gradients = {name: p.grad for name, p in named if p.grad is not None}
    norm = math.sqrt(_sum_of_squares(gradients, mesh, copies))
    if max_norm > 0 and math.isfinite(norm) and norm > max_norm:
        torch._foreach_mul_([local(gradient) for gradient in gradients.values()], max_norm / norm)
    return norm


def _sum_of_squares(gradients: dict[str, Tensor], mesh: Mesh | None, copies: Collection[str]) -> float:
    counted = [gradient for name, gradient in gradients.items() if name not in copies]
    alike: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = {(): []}
    for gradient in counted:
        alike.setdefault(_groups(gradient), []).append(local(gradient))
    total: Tensor | float = 0.0
    for groups, tensors in alike.items():
        if tensors:
            squares = torch.stack(torch._foreach_norm(tensors)).float().square().sum()
            for group in groups:
                dist.all_reduce(squares, group=group)
            total = total + squares
    if mesh is not None and mesh["pipeline"].size() > 1:
        total = torch.as_tensor(total, device=mesh.device)
        dist.all_reduce(total, group=mesh["pipeline"].get_group())
    return float(total)


def _groups(gradient: Tensor) -> tuple[dist.ProcessGroup, ...]:
    """The ranks that have the other parts of it, one group for each dimension of its mesh along which it is cut."""
    if not isinstance(gradient, DTensor):
        return ()
    mesh, placements = gradient.device_mesh, gradient.placements
    cut = [dimension for dimension, placement in enumerate(placements) if not placement.is_replicate()]
    assert not any(placements[dimension].is_partial() for dimension in cut), "gradients must be reduced by now"
    return tuple(mesh.get_group(dimension) for dimension in cut)
