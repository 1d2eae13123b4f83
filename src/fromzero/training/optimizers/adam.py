"""Adam (Kingma and Ba 2015, algorithm 1) and AdamW (Loshchilov and Hutter 2019, algorithm 2)."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fromzero.training.optimizers.base import Betas, Optimizer, gradients, local


class Adam(Optimizer):
    """w -= lr * m_hat / (sqrt(v_hat) + eps); weight decay is added to the gradient (L2).

    Equal to torch.optim.Adam up to rounding. State per parameter: `step` (a number), `exp_avg` and `exp_avg_sq`
    (tensors like the parameter).
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool = True,
        **more: Any,
    ) -> None:
        """fused: by torch's kernel, one pass over memory instead of eight (on two CPU cores 3 to 4 times as fast)."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "fused": fused, **more}
        super().__init__(params, defaults)

    def _start(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}

    def _update(self, parameters: list[Tensor], states: list[dict[str, Any]], group: dict[str, Any]) -> None:
        """The update of one group; each line works on all tensors of the group at once."""
        for state in states:
            state["step"] += 1
        weights, grads = local(parameters), local(gradients(parameters))
        averages, squares = local([s["exp_avg"] for s in states]), local([s["exp_avg_sq"] for s in states])
        if group["fused"] and weights[0].device.type in ("cpu", "cuda"):
            self._fused((weights, grads, averages, squares), [s["step"] for s in states], group)
            return
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        if self.decoupled:
            torch._foreach_mul_(weights, 1 - lr * decay)
        elif decay:
            grads = list(torch._foreach_add(grads, weights, alpha=decay))
        torch._foreach_lerp_(averages, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        # Bias correction: both averages start at 0 and would be too small in the first steps.
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, [math.sqrt(1 - beta2 ** s["step"]) for s in states])
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(weights, averages, denominators, [-lr / (1 - beta1 ** s["step"]) for s in states])

    def _fused(self, tensors: tuple[list[Tensor], ...], steps: list[int], group: dict[str, Any]) -> None:
        """The same by torch's kernel, which wants the numbers of steps as tensors."""
        counts = {step: torch.tensor(float(step), device=tensors[0][0].device) for step in set(steps)}
        settings = {name: group[name] for name in ("lr", "eps", "weight_decay")}
        beta1, beta2 = group["betas"]
        kernel: Any = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        steps_ = [counts[step] for step in steps]
        kernel(*tensors, [], steps_, **settings, beta1=beta1, beta2=beta2, amsgrad=False, maximize=False)


class AdamW(Adam):
    """Adam with decoupled weight decay: w -= lr * (m_hat / (sqrt(v_hat) + eps) + decay * w)."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: Betas = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        fused: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, fused, **more)
