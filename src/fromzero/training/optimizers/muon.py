"""Muon (Jordan 2024): momentum, made orthogonal. AdamW steps what is not a hidden matrix."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from fromzero.training.optimizers.adam import AdamW
from fromzero.training.optimizers.base import Betas, gradients, local

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that is applied to singular values: steepest at 0, so that small ones grow fast (Jordan)."""


class Muon(AdamW):
    """w -= lr * (sqrt(max(1, rows / columns)) * orthogonal(Nesterov momentum) + decay * w).

    The factor is Jordan's: steps change what a layer puts out by as much whatever its shape, so one rate fits all
    widths (Bernstein 2025). Groups with use_muon False are stepped by AdamW. Parameters of three dimensions are stacks
    of matrices (experts). Equal to torch.optim.Muon, which has none of both, up to the dtype that it computes in.

    State per parameter: `momentum_buffer` (a tensor like the parameter), or AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        betas: Betas = (0.9, 0.95),
        eps: float = 1e-8,
        iterations: int = 5,
    ) -> None:
        """betas, eps: AdamW's. iterations: of Newton and Schulz."""
        more: dict[str, Any] = {"momentum": momentum, "iterations": iterations, "use_muon": True}
        super().__init__(params, lr, betas, eps, weight_decay, **more)

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if group["use_muon"]:
            return {"momentum_buffer": torch.zeros_like(parameter)}
        return super()._start(parameter, group)

    def _update(self, parameters: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
        if not group["use_muon"]:
            super()._update(parameters, states, group)
            return
        weights, grads = local(parameters), local(gradients(parameters))
        momenta = local([s["momentum_buffer"] for s in states])
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        steps = torch._foreach_lerp(grads, momenta, group["momentum"])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        alike: dict[Any, list[int]] = {}
        for index, parameter in enumerate(parameters):
            own = index if parameter.dim() > 2 else None  # it is a stack by itself
            alike.setdefault((own, parameter.shape, getattr(parameter, "placements", None)), []).append(index)
        for indices in alike.values():
            like = parameters[indices[0]]
            stack = steps[indices[0]] if like.dim() > 2 else torch.stack([steps[i] for i in indices])
            rate = group["lr"] * max(1.0, like.shape[-2] / like.shape[-1]) ** 0.5
            done = _orthogonalize_parts(stack, like, group["iterations"])
            for index, step in zip(indices, [done] if like.dim() > 2 else done.unbind(), strict=True):
                weights[index].sub_(step, alpha=rate)


def orthogonalize(x_NRC: Tensor, iterations: int = 5) -> Tensor:
    """Each matrix of a stack with all singular values near 1 (about 0.7 to 1.2), by an iteration of Newton and Schulz.

    In bfloat16 on a GPU, where that is fastest and exact enough (Jordan 2024), else in float32.
    """
    a, b, c = COEFFICIENTS
    rows, columns = x_NRC.shape[-2:]
    x = (x_NRC.mT if rows > columns else x_NRC).to(torch.bfloat16 if x_NRC.is_cuda else torch.float32)
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if rows > columns else x).to(x_NRC.dtype)


def _orthogonalize_parts(stack: Tensor, like: Tensor, iterations: int) -> Tensor:
    """The same of this rank's parts of matrices that are placed like a parameter.

    One exchange hands each rank some of the matrices whole, so the work is shared, and another one brings back parts.
    """
    if not isinstance(like, DTensor):
        return orthogonalize(stack, iterations)
    mesh, stacked = like.device_mesh, like.dim() > 2
    shape = like.shape if stacked else torch.Size([len(stack), *like.shape])
    parts: list[Placement] = [_moved(p, 0 if stacked else 1) for p in like.placements]
    spread: list[Placement] = [Shard(0)] * mesh.ndim

    def place(tensor: Tensor, placements: list[Placement]) -> DTensor:
        stride = (shape[1] * shape[2], shape[2], 1)
        return DTensor.from_local(tensor, mesh, placements, run_check=False, shape=shape, stride=stride)

    matrices = place(stack, parts).redistribute(placements=spread).to_local()
    return place(orthogonalize(matrices, iterations), spread).redistribute(placements=parts).to_local()


def _moved(placement: Placement, dimensions: int) -> Placement:
    if isinstance(placement, _StridedShard):  # what fully_shard cuts of a part that tensor parallelism has cut
        return _StridedShard(placement.dim + dimensions, split_factor=placement.split_factor)
    return Shard(placement.dim + dimensions) if isinstance(placement, Shard) else placement
