"""Linear layers of narrow activations on a CPU that multiplies fp32 faster than bfloat16.

Many CPUs have instructions for bfloat16 that are slower than those for fp32, or have none and take many times as
long. There, activations stay narrow in memory and are widened for each product, as are weights that are narrow too;
sums and weight gradients are as exact as fp32's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fromzero.device import narrow_products_pay

BLOCK = 1 << 20  # numbers of a matrix that are made in another dtype at once: they stay in cache


@torch.compiler.assume_constant_result
def widened(dtype: torch.dtype, device: str) -> bool:
    """Whether products of activations in `dtype` are to be in fp32."""
    return dtype != torch.float32 and not narrow_products_pay(dtype, device)


def product_dtype(x: Tensor) -> torch.dtype:
    """In which products of these activations are to be made."""
    return torch.float32 if widened(x.dtype, x.device.type) else x.dtype


def wide_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x W^T + b in the dtype of x, multiplied in fp32; (..., I) -> (..., O)."""
    return _WideLinear.apply(x.flatten(0, -2), weight_OI, bias_O).view(*x.shape[:-1], -1)


Blocks = Iterable[tuple[slice, Tensor]]
"""Some rows of a matrix W (out, in) after the other: which, and what they are in the dtype of products."""


def row_blocks(shape: tuple[int, int], device: torch.device, rows: Callable[[slice], Tensor]) -> Blocks:
    """On a CPU as many rows at once as stay in its cache, and never all of a large matrix; else all."""
    step = max(1, BLOCK // shape[1]) if device.type == "cpu" else shape[0]
    return ((part, rows(part)) for part in (slice(start, start + step) for start in range(0, shape[0], step)))


def times(x_NI: Tensor, blocks: Blocks, outputs: int, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b in the dtype of x; (N, I) -> (N, O)."""
    y_NO = x_NI.new_empty(len(x_NI), outputs)
    for rows, block in blocks:
        x_NI = x_NI.to(block.dtype)  # once
        y_NO[:, rows] = F.linear(x_NI, block, None if bias_O is None else bias_O[rows].to(block.dtype))
    return y_NO


def times_rows(y_NO: Tensor, blocks: Blocks, inputs: int) -> Tensor:
    """y W in the dtype of y, summed in that of products; (N, O) -> (N, I)."""
    x_NI = y_NO.new_zeros(len(y_NO), inputs, dtype=product_dtype(y_NO))
    for rows, block in blocks:
        x_NI.addmm_(y_NO[:, rows].to(block.dtype), block)
    return x_NI.to(y_NO.dtype)


def _wide(weight_OI: Tensor) -> Blocks:
    if weight_OI.dtype == torch.float32:
        return [(slice(None), weight_OI)]
    outputs, inputs = weight_OI.shape
    return row_blocks((outputs, inputs), weight_OI.device, lambda rows: weight_OI[rows].float())


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NI if weight_OI.requires_grad else None, weight_OI)
        if weight_OI.dtype == torch.float32:
            return F.linear(x_NI.float(), weight_OI, bias_O).to(x_NI.dtype)
        return times(x_NI, _wide(weight_OI), len(weight_OI), bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI = ctx.saved_tensors
        needs_x, needs_w, needs_b = ctx.needs_input_grad
        grad_x = times_rows(grad_NO, _wide(weight_OI), weight_OI.shape[1]) if needs_x else None
        grad = grad_NO.float() if needs_w or needs_b else grad_NO
        return grad_x, grad.t() @ x_NI.float() if needs_w else None, grad.sum(0) if needs_b else None
