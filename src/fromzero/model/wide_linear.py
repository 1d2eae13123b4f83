"""Linear layers of narrow activations on a CPU that multiplies fp32 faster than bfloat16.

Many CPUs have instructions for bfloat16 that are slower than those for fp32. There, activations stay narrow in memory,
are widened for each product, and weights need no cast at all; sums and weight gradients are as exact as fp32's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fromzero.device import narrow_products_pay


@torch.compiler.assume_constant_result
def widened(dtype: torch.dtype, weight_dtype: torch.dtype, device: str) -> bool:
    """Whether products of activations in `dtype` with such weights are to be in fp32."""
    narrow = dtype != torch.float32 and weight_dtype == torch.float32
    return narrow and not narrow_products_pay(dtype, device)


def wide_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x W^T + b in the dtype of x, with W and b in fp32; (..., I) -> (..., O)."""
    return _WideLinear.apply(x.flatten(0, -2), weight_OI, bias_O).view(*x.shape[:-1], -1)


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return F.linear(x_NI.float(), weight_OI, bias_O).to(x_NI.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI = ctx.saved_tensors
        grad = grad_NO.float()
        grad_x = (grad @ weight_OI).to(x_NI.dtype) if ctx.needs_input_grad[0] else None
        grad_w = grad.t() @ x_NI.float() if ctx.needs_input_grad[1] else None
        return grad_x, grad_w, grad.sum(0) if ctx.needs_input_grad[2] else None
