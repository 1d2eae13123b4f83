"""Tensor parallelism from scratch: a matrix cut by columns, then one cut by rows (Shoeybi et al. 2019, section 3).

Y = f(X A) B with A = [A1 A2] cut by its columns and B = [B1; B2] by its rows is f(X A1) B1 + f(X A2) B2: a rank needs
its part of A and B only, and there is one sum, at the end. The way back needs one too, of the gradients of X. In the
paper's words these are g (the sum on the way there) and f (the sum on the way back), each the other's mirror image.
Weights are as in nn.Linear, y = x W^T + b, so the columns of the paper are rows here.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class SumBackward(torch.autograd.Function):
    """f: the same on the way there; on the way back the sum over ranks, each of which has used x for its part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


class SumForward(torch.autograd.Function):
    """g: the sum over ranks on the way there; on the way back each summand has the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class ColumnParallel(nn.Module):
    """x (..., I), the same on all ranks -> this rank's outputs (..., O / ranks) of a linear layer."""

    def __init__(self, whole: nn.Linear) -> None:
        """whole: the same layer on all ranks, of whose outputs their number is a divisor."""
        super().__init__()
        rank, ranks = dist.get_rank(), dist.get_world_size()
        self.weight = nn.Parameter(whole.weight.detach().chunk(ranks, 0)[rank].clone())
        self.bias = None if whole.bias is None else nn.Parameter(whole.bias.detach().chunk(ranks)[rank].clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(SumBackward.apply(x), self.weight, self.bias)


class RowParallel(nn.Module):
    """This rank's inputs (..., I / ranks) -> all outputs (..., O) of a linear layer, the same on all ranks."""

    def __init__(self, whole: nn.Linear) -> None:
        """whole: the same layer on all ranks, of whose inputs their number is a divisor."""
        super().__init__()
        rank, ranks = dist.get_rank(), dist.get_world_size()
        self.weight = nn.Parameter(whole.weight.detach().chunk(ranks, 1)[rank].clone())
        self.bias = None if whole.bias is None else nn.Parameter(whole.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y = SumForward.apply(F.linear(x, self.weight))
        return y if self.bias is None else y + self.bias
