"""Linear layers whose products are in 8-bit floating point (Micikevicius et al. 2022), for GPUs that have it.

Weights and inputs are rounded to e4m3 (3 bits of mantissa), gradients, which spread wider, to e5m2. Each tensor is
scaled so that its largest value is the largest that the format has; the scale is found anew each time (dynamic,
tensorwise). Sums are in fp32; weights stay in fp32.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import ScalingType

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # sizes of the kernels' matrices are whole multiples of it


def float8_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x W^T + b in the dtype of x; (..., I) -> (..., O), both multiples of 16."""
    y = _Float8Linear.apply(x.flatten(0, -2), weight_OI).view(*x.shape[:-1], -1)
    return y if bias_O is None else y + bias_O.to(y.dtype)


def quantize(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in an 8-bit format, and the fp32 factor that gives its values back."""
    factor = x.abs().amax().float().clamp(min=1e-12) / torch.finfo(dtype).max
    return (x.float() / factor).to(dtype), factor


class _Float8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return _product(quantize(x_NI, FORWARD), quantize(weight_OI, FORWARD), x_NI.dtype, fast=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, Tensor]:
        x_NI, weight_OI = ctx.saved_tensors
        grad, (weight, factor) = quantize(grad_NO, BACKWARD), quantize(weight_OI, FORWARD)
        grad_x = _product(grad, (weight.t().contiguous(), factor), x_NI.dtype)
        if len(x_NI) % MULTIPLE:
            return grad_x, (grad_NO.t() @ x_NI).to(weight_OI.dtype)
        x, factor = quantize(x_NI, FORWARD)
        turned = grad[0].t().contiguous(), grad[1]
        return grad_x, _product(turned, (x.t().contiguous(), factor), torch.float32).to(weight_OI.dtype)


def _product(
    a_MK: tuple[Tensor, Tensor], b_NK: tuple[Tensor, Tensor], dtype: torch.dtype, fast: bool = False
) -> Tensor:
    """a b^T of two tensors with their factors; the kernels want both in rows along K. fast: shorter sums, on Hopper."""
    (a, factor_a), (b, factor_b), one = a_MK, b_NK, ScalingType.TensorWise
    return F.scaled_mm(a, b.t(), factor_a, one, factor_b, one, output_dtype=dtype, use_fast_accum=fast)
