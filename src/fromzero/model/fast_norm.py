"""RMSNorm with its gradient written out: half the passes over memory that automatic differentiation makes on a CPU.

With r = 1 / sqrt(mean(x^2) + eps) and n = x r, y = n w. Backward, for g = dL/dy and h = g w:

    dL/dx = r (h - n mean(h n))        dL/dw = sum over rows of g n

Equal to functions.rms_norm; n and r are kept for the way back, x is not.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def fast_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension, in the dtype of x; the mean square is taken in fp32."""
    if torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)
    return _normed(x, eps)[0].mul_(weight.to(x.dtype))


def _normed(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """n in the dtype of x, in memory of its own, and r in fp32."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(eps))
    return (x * scale).to(x.dtype), scale


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = _normed(x, eps)
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        width = normed.shape[-1]
        product = (grad_y * normed).reshape(-1, width)
        along = (product @ weight.to(product.dtype)).view(scale.shape) / width  # mean(h n), one value a row
        grad_x = torch.addcmul(grad_y * weight.to(grad_y.dtype), normed, along, value=-1).mul_(scale.to(grad_y.dtype))
        return grad_x, product.sum(0, dtype=torch.float32), None
