"""Adafactor (Shazeer and Stern 2018, algorithm 4): the second moment of a matrix as a row times a column."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fromzero.training.optimizers.base import Optimizer, gradients, local, part, placed, whole


class Adafactor(Optimizer):
    """w -= lr * max(eps2, rms(w)) * u / max(1, rms(u) / d), with u = g / sqrt(v) and v factored.

    Steps are relative to the size of a tensor; the rate that the paper lets fall with the step (its section 8) is left
    to the schedule. Decay is decoupled. Equal to torch.optim.Adafactor as long as lr is below 1 / sqrt(step).

    State per parameter: `step` (a number), and `row_var`, `col_var` (means of squares over the last dimension and the
    one before, whole on every rank), or `variance` (like the parameter) for vectors.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        """eps: smallest root of the second moment (None: the dtype's precision), smallest size of a tensor."""
        super().__init__(
            params, {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
        )

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if parameter.dim() < 2:
            return {"step": 0, "variance": torch.zeros_like(parameter)}
        *stack, rows, columns = parameter.shape
        new = local([parameter])[0].new_zeros
        return {"step": 0, "row_var": new((*stack, rows, 1)), "col_var": new((*stack, 1, columns))}

    def _update(self, parameters: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
        for parameter, gradient, state in zip(parameters, gradients(parameters), states, strict=True):
            state["step"] += 1
            smallest = group["eps"][0] or torch.finfo(parameter.dtype).eps
            rate = group["lr"] * rms(parameter).clamp(min=group["eps"][1])
            (weights, grad) = local([parameter, gradient])
            weights.mul_(1 - group["lr"] * group["weight_decay"])
            variance = self._variance(gradient, state, state["step"] ** group["beta2_decay"], smallest)
            step = variance.clamp(min=smallest**2).rsqrt() * grad
            weights.sub_(step * (rate / (rms(placed(step, parameter)) / group["d"]).clamp(min=1)))

    @staticmethod
    def _variance(gradient: Tensor, state: dict[str, Any], new_share: float, smallest: float) -> Tensor:
        """This rank's part of the second moment, after the gradient has been averaged in with a weight."""
        squares = gradient.square()
        if "variance" in state:
            variance = local([state["variance"]])[0]
            return variance.lerp_(local([squares])[0], new_share)
        row, column = state["row_var"], state["col_var"]
        row.lerp_(whole(squares.sum(-1, keepdim=True)) / gradient.shape[-1], new_share)
        column.lerp_(whole(squares.sum(-2, keepdim=True)) / gradient.shape[-2], new_share)
        return part(row * column / row.mean(-2, keepdim=True).clamp(min=smallest), gradient)


def rms(tensor: Tensor) -> Tensor:
    """Root of the mean square of all elements, on every rank."""
    return (whole(tensor.square().sum()) / tensor.numel()).sqrt()
