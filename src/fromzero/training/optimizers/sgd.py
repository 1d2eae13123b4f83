"""Stochastic gradient descent with momentum, and Lion, which keeps of the step its signs alone."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fromzero.training.optimizers.base import Betas, Optimizer, gradients, local


class SGD(Optimizer):
    """m = momentum * m + g; w -= lr * m, or with nesterov lr * (g + momentum * m) (Sutskever et al. 2013).

    Weight decay is added to the gradient (L2). Equal to torch.optim.SGD without dampening. State per parameter:
    `momentum_buffer` (a tensor like the parameter), none without momentum.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, defaults)

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"momentum_buffer": torch.zeros_like(parameter)} if group["momentum"] else {}

    def _update(self, parameters: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
        weights, steps = local(parameters), local(gradients(parameters))
        if group["weight_decay"]:
            steps = list(torch._foreach_add(steps, weights, alpha=group["weight_decay"]))
        if group["momentum"]:
            momenta = local([s["momentum_buffer"] for s in states])
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, steps)
            ahead = group["nesterov"]
            steps = list(torch._foreach_add(steps, momenta, alpha=group["momentum"])) if ahead else momenta
        torch._foreach_add_(weights, steps, alpha=-group["lr"])


class Lion(Optimizer):
    """w -= lr * (sign(beta1 * m + (1 - beta1) * g) + decay * w), then m = beta2 * m + (1 - beta2) * g.

    Chen et al. 2023, algorithm 2. Every weight moves by lr, so lr is 3 to 10 times smaller than AdamW's, and the decay
    as much larger (section 5). State per parameter: `exp_avg` (a tensor like the parameter).
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"exp_avg": torch.zeros_like(parameter)}

    def _update(self, parameters: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
        weights, grads, averages = (
            local(parameters),
            local(gradients(parameters)),
            local([s["exp_avg"] for s in states]),
        )
        beta1, beta2 = group["betas"]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        directions = torch._foreach_sign(torch._foreach_lerp(averages, grads, 1 - beta1))
        torch._foreach_add_(weights, directions, alpha=-group["lr"])
        torch._foreach_lerp_(averages, grads, 1 - beta2)
