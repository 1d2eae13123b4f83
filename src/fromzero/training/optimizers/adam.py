"""AdamW (Loshchilov and Hutter 2019, algorithm 2), with torch's signature, and clipping by the global norm."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay: w -= lr * (m_hat / (sqrt(v_hat) + eps) + decay * w).

    Equal to torch.optim.AdamW up to rounding. State per parameter: `step` (a number), `exp_avg` and `exp_avg_sq`
    (tensors like the parameter).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """The update of one group; each line works on all tensors of the group at once."""
        for parameter in parameters:
            if not self.state[parameter]:
                zeros = (torch.zeros_like(parameter), torch.zeros_like(parameter))
                self.state[parameter].update(step=0, exp_avg=zeros[0], exp_avg_sq=zeros[1])
            self.state[parameter]["step"] += 1
        states = [self.state[p] for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        averages, squares = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        lr, (beta1, beta2) = group["lr"], group["betas"]
        torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(averages, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        # Bias correction: both averages start at 0 and would be too small in the first steps.
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, [math.sqrt(1 - beta2 ** s["step"]) for s in states])
        torch._foreach_add_(denominators, group["eps"])
        torch._foreach_addcdiv_(parameters, averages, denominators, [-lr / (1 - beta1 ** s["step"]) for s in states])


def decay_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay; norm weights and biases, which have no scale to keep small, do not."""
    parameters = [p for _, p in named if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale all gradients in place so that their global L2 norm is at most `max_norm`; the norm before that.

    0 measures without clipping. A norm that is not finite is returned as it is, and nothing is scaled.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)).float()))
    if max_norm > 0 and math.isfinite(norm) and norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm
