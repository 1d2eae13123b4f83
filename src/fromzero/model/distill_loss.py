"""Learning from another model's probabilities (Hinton et al. 2015, section 2), logits in blocks as in linear_loss."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fromzero.model.layers import Head
from fromzero.model.linear_loss import linear_cross_entropy, loss_and_logit_gradient
from fromzero.model.quantized import Matrix, numbers
from fromzero.model.wide_linear import product_dtype

Divergence = Literal["forward", "reverse", "jsd"]
"""KL(teacher || student); KL(student || teacher); the mean of both to the mixture of both (Jensen and Shannon)."""


def divergence(kind: Divergence, student_NV: Tensor, teacher_NV: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of softmax(logits / temperature) of each row, (N,) in nats, and its gradient to the student's logits (N, V)."""
    log_p, log_t = ((logits / temperature).log_softmax(-1) for logits in (student_NV, teacher_NV))
    p, t = log_p.exp(), log_t.exp()
    if kind == "forward":
        each, slope = t * (log_t - log_p), -t  # slope: p times the derivative by p, but for what is the same for all
    elif kind == "reverse":
        each = slope = p * (log_p - log_t)
    else:
        log_m = torch.logaddexp(log_p, log_t) - math.log(2)
        slope = 0.5 * p * (log_p - log_m)
        each = 0.5 * t * (log_t - log_m) + slope
    return each.sum(-1), (slope - p * slope.sum(-1, keepdim=True)) / temperature


def distillation_loss(
    head: Head,
    x_ND: Tensor,
    weight_VD: Matrix,
    targets_N: Tensor,
    teach: Callable[[Tensor], Tensor],
    *,
    alpha: float,
    temperature: float,
    kind: Divergence = "forward",
) -> tuple[Tensor, Tensor]:
    """alpha temperature^2 divergence + (1 - alpha) cross-entropy, summed over rows; all targets count, none is -100.

    teach: numbers of rows -> the teacher's logits of these, fp32; of vocabularies that are padded, what both have
    counts. Also the sums of cross-entropy, of divergence, and of rows whose likeliest token is the same, without
    gradient.
    """
    sums = torch.zeros(3, device=x_ND.device)

    def block(student_NV: Tensor, rows_N: Tensor) -> tuple[Tensor, Tensor]:
        teacher_NV = teach(rows_N)
        both = min(student_NV.shape[1], teacher_NV.shape[1])
        teacher_NV, known_NV = teacher_NV[:, :both], student_NV[:, :both]
        apart_N, slope_NV = divergence(kind, known_NV, teacher_NV, temperature)
        same, weight = (known_NV.argmax(-1) == teacher_NV.argmax(-1)).sum(), alpha * temperature**2
        nats, grad_NV = loss_and_logit_gradient(student_NV, targets_N[rows_N])
        sums.add_(torch.stack([nats, apart_N.sum(), same]))
        grad_NV.mul_(1 - alpha)[:, :both].add_(slope_NV, alpha=weight)
        return (1 - alpha) * nats + weight * apart_N.sum(), grad_NV

    rows_N, weight = torch.arange(len(x_ND), device=x_ND.device), numbers(weight_VD, product_dtype(x_ND))
    return linear_cross_entropy(x_ND, weight, rows_N, block, head.bias, head.scale, head.softcap), sums
