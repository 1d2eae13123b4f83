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

from fromzero.model.quantized import Matrix, QuantizedMatrix, numbers
from fromzero.model.wide_linear import product_dtype

IGNORE = -100
BLOCK_BYTES = 16 << 20  # of one block of logits: stays in cache, large enough for full matrix speed
GPU_BLOCK_BYTES = 1 << 30  # a GPU has no such cache, and needs more rows to be busy
SMALLEST_P = 1e-30  # probabilities below it lose digits in fp32 (and become 0 at 1e-45)

BlockLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(logits of some rows in fp32, which it may overwrite; their targets) -> summed loss, its gradient to the logits."""


def linear_cross_entropy(
    x_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    loss: BlockLoss | None = None,
    bias_V: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Sum over rows of -log softmax(logits)[target], in nats (fp32 scalar); rows with target -100 do not count.

    Logits are scale (x W^T + b), within +-softcap where there is one: those of layers.Head. loss: in place of the
    softmax over all of V, where W is a part of the vocabulary. Equal to functions.cross_entropy(logits, targets).sum()
    up to rounding; not differentiable twice.
    """
    x_ND, bias_V = _scaled(x_ND, bias_V, scale / (softcap or 1.0))
    if not torch.is_grad_enabled():  # then no gradient is worked out
        x_ND, weight_VD, bias_V = x_ND.detach(), weight_VD.detach(), None if bias_V is None else bias_V.detach()
    return _LinearCrossEntropy.apply(x_ND, weight_VD, targets_N, loss or loss_and_logit_gradient, bias_V, softcap)


@torch.no_grad()
def linear_nats(
    x_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """The same of each row, (N,) in fp32, 0 where the target is -100; for evaluation."""
    x_ND, bias_V = _scaled(x_ND, bias_V, scale / (softcap or 1.0))
    (x_ND, weight_VD), nats_N = _factors(x_ND, weight_VD), x_ND.new_empty(len(x_ND), dtype=torch.float32)
    for rows in _blocks(x_ND, weight_VD):
        logits_NV = _logits(x_ND[rows], weight_VD, bias_V, softcap)
        nats_N[rows] = F.cross_entropy(logits_NV, targets_N[rows], reduction="none", ignore_index=IGNORE)
    return nats_N


def linear_logprobs(
    x_ND: Tensor,
    weight_VD: Matrix,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """log softmax(logits / temperature)[target] of each row, in nats (N,) fp32, 0 where the target is -100.

    With gradients, for losses that weigh each token or each answer by something of its own: the logits of a block are
    made again in the backward pass, so none are kept; nor is W unpacked where it is in few bits. Not differentiable
    twice.
    """
    x_ND, bias_V = _scaled(x_ND, bias_V, scale / (softcap or 1.0))
    return _LinearLogprobs.apply(x_ND, weight_VD, targets_N, bias_V, softcap, temperature)


def _scaled(x_ND: Tensor, bias_V: Tensor | None, factor: float) -> tuple[Tensor, Tensor | None]:
    """What the logits are to be multiplied by goes with x and the bias: there are fewer of these."""
    if factor == 1:
        return x_ND, bias_V
    return x_ND * factor, None if bias_V is None else bias_V * factor


def _blocks(x_ND: Tensor, weight_VD: Tensor) -> list[slice]:
    """The rows of each block."""
    rows = max(1, (BLOCK_BYTES if x_ND.device.type == "cpu" else GPU_BLOCK_BYTES) // (4 * weight_VD.shape[0]))
    return [slice(start, start + rows) for start in range(0, x_ND.shape[0], rows)]


def _factors(x_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype in which they are multiplied."""
    dtype = product_dtype(x_ND)
    return x_ND.to(dtype), weight_VD.to(dtype)


def _logits(x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, softcap: float | None) -> Tensor:
    """In fp32, in memory of their own."""
    logits_NV = F.linear(x_ND, weight_VD, None if bias_V is None else bias_V.to(x_ND.dtype)).float()
    return logits_NV if softcap is None else logits_NV.tanh_().mul_(softcap)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        loss: BlockLoss,
        bias_V: Tensor | None,
        softcap: float | None,
    ) -> Tensor:
        ctx.dtype = x_ND.dtype
        x_ND, weight = _factors(x_ND, weight_VD)
        total = x_ND.new_zeros((), dtype=torch.float32)
        needs = any(ctx.needs_input_grad)
        grad_x = torch.empty_like(x_ND) if needs else None
        learned = ctx.needs_input_grad[1]  # or it is frozen, and a third of the arithmetic is saved
        grad_w = torch.zeros_like(weight_VD, dtype=torch.float32) if learned else None
        grad_b = (
            torch.zeros_like(bias_V, dtype=torch.float32) if ctx.needs_input_grad[4] and bias_V is not None else None
        )
        for rows in _blocks(x_ND, weight):
            block, logits = x_ND[rows], _logits(x_ND[rows], weight, bias_V, softcap)
            slope = None if softcap is None else softcap - logits.square() / softcap  # of cap tanh(z), at z
            nats, grad = loss(logits, targets_N[rows])
            total += nats
            if grad_x is None:
                continue
            grad = (grad if slope is None else grad.mul_(slope)).to(block.dtype)
            torch.mm(grad, weight, out=grad_x[rows])
            if grad_w is not None:
                grad_w.addmm_(grad.t(), block) if grad.dtype == grad_w.dtype else grad_w.add_(grad.t() @ block)
            if grad_b is not None:
                grad_b += grad.sum(0, dtype=torch.float32)
        ctx.save_for_backward(grad_x, grad_w, grad_b)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        # In place, as nobody else has them, unless there is a second pass (that of a zero-bubble pipeline for weights).
        scale = torch.mul if torch._C._autograd._get_current_graph_task_keep_graph() else Tensor.mul_
        grad_x, grad_w, grad_b = (None if grad is None else scale(grad, grad_total) for grad in ctx.saved_tensors)
        return None if grad_x is None else grad_x.to(ctx.dtype), grad_w, None, None, grad_b, None


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Matrix,
        targets_N: Tensor,
        bias_V: Tensor | None,
        softcap: float | None,
        temperature: float,
    ) -> Tensor:
        x, weight = _factors(x_ND, numbers(weight_VD, product_dtype(x_ND)))
        total_N = x.new_empty(len(x), dtype=torch.float32)
        chosen_N = torch.empty_like(total_N)
        for rows in _blocks(x, weight):
            logits_NV = _logits(x[rows], weight, bias_V, softcap).div_(temperature)
            total_N[rows] = logits_NV.logsumexp(-1)
            chosen_N[rows] = logits_NV.gather(1, targets_N[rows].clamp(min=0)[:, None])[:, 0]
        ctx.few_bits = weight_VD if isinstance(weight_VD, QuantizedMatrix) else None
        ctx.save_for_backward(x_ND, None if ctx.few_bits else weight_VD, targets_N, bias_V, total_N)
        ctx.softcap, ctx.temperature = softcap, temperature
        return (chosen_N - total_N).masked_fill_(targets_N == IGNORE, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_VD, targets_N, bias_V, total_N = ctx.saved_tensors
        weight_VD = numbers(ctx.few_bits, product_dtype(x_ND)) if ctx.few_bits else weight_VD
        x, weight = _factors(x_ND, weight_VD)
        needs_x, needs_w, _, needs_b, *_ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if needs_x else None
        grad_w = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_w else None
        grad_b = torch.zeros_like(bias_V, dtype=torch.float32) if needs_b else None
        factor_N1 = (grad_N / ctx.temperature).masked_fill(targets_N == IGNORE, 0.0)[:, None]
        for rows in _blocks(x, weight):
            logits = _logits(x[rows], weight, bias_V, ctx.softcap)
            slope = None if ctx.softcap is None else ctx.softcap - logits.square() / ctx.softcap
            grad = logits.div_(ctx.temperature).sub_(total_N[rows, None]).exp_().neg_()
            grad.scatter_add_(1, targets_N[rows].clamp(min=0)[:, None], torch.ones_like(grad[:, :1]))
            grad.mul_(factor_N1[rows])
            grad = (grad if slope is None else grad.mul_(slope)).to(x.dtype)
            if grad_x is not None:
                torch.mm(grad, weight, out=grad_x[rows])
            if grad_w is not None:
                grad_w.addmm_(grad.t(), x[rows]) if grad.dtype == grad_w.dtype else grad_w.add_(grad.t() @ x[rows])
            if grad_b is not None:
                grad_b += grad.sum(0, dtype=torch.float32)
        return None if grad_x is None else grad_x.to(x_ND.dtype), grad_w, None, grad_b, None, None


def loss_and_logit_gradient(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss, and softmax - one_hot(target), zero for ignored rows. One pass makes the probabilities for both."""
    counted = targets_N != IGNORE
    targets_N1 = targets_N.clamp(min=0)[:, None]
    p_NV = torch.softmax(logits_NV, dim=-1)
    target_p = p_NV.gather(1, targets_N1).squeeze(1)
    nats_N = -target_p.log()
    # A GPU would have to wait for the answers to these questions, so there it is as if they were yes.
    if logits_NV.device.type != "cpu" or bool((target_p < SMALLEST_P).any()):
        # The highest probability is 1 / sum(exp(logit - highest logit)): the logarithm is exact for every target.
        nats_N = logits_NV.amax(-1) - p_NV.amax(-1).log() - logits_NV.gather(1, targets_N1).squeeze(1)
    p_NV.scatter_add_(1, targets_N1, torch.full_like(p_NV[:, :1], -1.0))
    if logits_NV.device.type != "cpu" or not bool(counted.all()):
        p_NV.mul_(counted[:, None])
        nats_N = nats_N * counted
    return nats_N.sum(), p_NV
