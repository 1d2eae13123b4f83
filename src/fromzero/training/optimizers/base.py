"""What all optimizers share: one step over all groups, and parameters that ranks hold parts of (DTensor).

A state is tensors and plain numbers for each parameter; nothing else is needed to go on exactly. Tensors of the
parameter's shape are placed as the parameter is; smaller ones (Adafactor's) are whole on every rank.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

Betas = tuple[float, float]


class Optimizer(torch.optim.Optimizer):
    """A torch optimizer whose subclasses say how a state begins and how a group is updated."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, [self._state(p, group) for p in parameters], group)
        return loss

    def allocate(self) -> None:
        """Make every state as it is before the first step, to be loaded into."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._state(parameter, group)

    def _state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state.update(self._start(parameter.detach(), group))
        return state

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter before the first step."""
        raise NotImplementedError

    def _update(self, parameters: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
        """Step the parameters, all of which have gradients."""
        raise NotImplementedError


def local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """This rank's parts, which share memory with the tensors; a plain tensor is its own."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients, placed as their parameters are."""
    return [_redistributed(p.grad, p) for p in parameters if p.grad is not None]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank that has a part; sums over ranks that are still to be taken are taken."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a tensor that every rank has whole, what it holds of a tensor of this shape that is placed like another."""
    if not isinstance(like, DTensor):
        return tensor
    everywhere = [Replicate()] * like.device_mesh.ndim
    found = DTensor.from_local(tensor, like.device_mesh, everywhere, run_check=False)
    return found.redistribute(placements=like.placements).to_local()


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that is placed like another, as that tensor."""
    if not isinstance(like, DTensor):
        return tensor
    return DTensor.from_local(
        tensor, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _redistributed(tensor: Tensor, like: Tensor) -> Tensor:
    same = not isinstance(tensor, DTensor) or tensor.placements == getattr(like, "placements", None)
    return tensor if same else tensor.redistribute(placements=like.placements)  # type: ignore[attr-defined]
