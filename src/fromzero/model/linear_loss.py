"""Output layer and cross-entropy as one operation that never holds the logits of a whole batch.

The logits (N, V) are the largest tensor of a small model by far. Here they are made in blocks of rows; of each block
the loss and the gradients are taken at once and the block is thrown away. Same floating-point operations as the plain
form, a fraction of the memory traffic (the idea of Liger Kernel's fused linear cross-entropy, Hsu et al. 2024).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -100
BLOCK_BYTES = 16 << 20  # of one block of logits: stays in cache, large enough for full matrix speed
SMALLEST_P = 1e-30  # probabilities below it lose digits in fp32 (and become 0 at 1e-45)


BlockLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""fp32 logits (N, V) of a block, which it may overwrite, and targets -> the summed loss, and its gradient."""


def linear_cross_entropy(
    x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, block_loss: BlockLoss | None = None
) -> Tensor:
    """Sum over rows of -log softmax(x W^T)[target], in nats (fp32 scalar); rows with target -100 do not count.

    Equal to functions.cross_entropy(x @ W.T, targets).sum() up to rounding; not differentiable twice. block_loss: in
    place of softmax and logarithm, where W has only some of the logits.
    """
    if not torch.is_grad_enabled():  # then no gradient is worked out
        x_ND, weight_VD = x_ND.detach(), weight_VD.detach()
    return _LinearCrossEntropy.apply(x_ND, weight_VD, targets_N, block_loss or _loss_and_logit_gradient)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, block_loss: BlockLoss) -> Tensor:
        weight = weight_VD.to(x_ND.dtype)
        rows = max(1, BLOCK_BYTES // (4 * weight.shape[0]))
        total = x_ND.new_zeros((), dtype=torch.float32)
        needs = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_x = torch.empty_like(x_ND) if needs else None
        grad_w = torch.zeros_like(weight_VD, dtype=torch.float32) if needs else None
        for start in range(0, x_ND.shape[0], rows):
            block, targets = x_ND[start : start + rows], targets_N[start : start + rows]
            nats, grad = block_loss(F.linear(block, weight).float(), targets)
            total += nats
            if grad_x is not None and grad_w is not None:
                grad = grad.to(block.dtype)
                torch.mm(grad, weight, out=grad_x[start : start + rows])
                grad_w.addmm_(grad.t(), block) if grad.dtype == grad_w.dtype else grad_w.add_(grad.t() @ block)
        ctx.save_for_backward(grad_x, grad_w)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x, grad_w = ctx.saved_tensors
        return grad_x * grad_total, grad_w * grad_total, None, None


def _loss_and_logit_gradient(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss, and softmax - one_hot(target), zero for ignored rows. One pass makes the probabilities for both."""
    counted = targets_N != IGNORE
    targets_N1 = targets_N.clamp(min=0)[:, None]
    target_logits = logits_NV.gather(1, targets_N1).squeeze(1)
    p_NV = torch.softmax(logits_NV, dim=-1)
    target_p = p_NV.gather(1, targets_N1).squeeze(1)
    nats_N = -target_p.log()
    rare = target_p < SMALLEST_P  # too small for the logarithm to be exact: take the long way for these rows
    if bool(rare.any()):
        nats_N[rare] = torch.logsumexp(logits_NV[rare], -1) - target_logits[rare]
    p_NV.scatter_add_(1, targets_N1, torch.full_like(p_NV[:, :1], -1.0))
    if not bool(counted.all()):
        p_NV.mul_(counted[:, None])
        nats_N = nats_N * counted
    return nats_N.sum(), p_NV
