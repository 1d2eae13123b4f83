"""Ring attention from scratch (Liu et al. 2023): ranks share a sequence, and keys and values go round them.

A rank has the queries, keys and values of its stretch of the sequence. Over the keys that are here it adds up the
exponentials of the scores, and the values that they weigh; then keys and values go to the next rank. When all have been
here, the one is divided by the other. The highest score so far is taken off, so that no exponential overflows; when it
rises, what was added up before shrinks (Milakov and Gimelshein 2018, online softmax).

The way back is left to autograd: what sends on to the next rank sends gradients to the one before.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class SendOn(torch.autograd.Function):
    """x to the next rank, for that of the one before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _exchange(x, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _exchange(grad, -1)


def _exchange(x: Tensor, step: int) -> Tensor:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    sent, received = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    ends = [
        dist.P2POp(dist.isend, sent, (rank + step) % ranks),
        dist.P2POp(dist.irecv, received, (rank - step) % ranks),
    ]
    for work in dist.batch_isend_irecv(ends):
        work.wait()
    return received


def ring_attention(q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor) -> Tensor:
    """Causal attention over the whole sequence, of which rank r has the r-th stretch of T tokens; (B, H, T, C)."""
    rank, ranks, tokens = dist.get_rank(), dist.get_world_size(), q_BHTC.shape[2]
    here_T = torch.arange(tokens, device=q_BHTC.device)
    highest_BHT1 = torch.full_like(q_BHTC[..., :1], float("-inf"))
    weights_BHT1, values_BHTC = torch.zeros_like(highest_BHT1), torch.zeros_like(q_BHTC)
    for step in range(ranks):
        keys_from = (rank - step) % ranks
        seen_TS = here_T[:, None] + rank * tokens >= here_T + keys_from * tokens
        scores_BHTS = q_BHTC @ k_BHTC.transpose(-2, -1) * q_BHTC.shape[-1] ** -0.5
        scores_BHTS = scores_BHTS.masked_fill(~seen_TS, float("-inf"))
        risen_BHT1 = torch.maximum(highest_BHT1, scores_BHTS.detach().amax(-1, keepdim=True))
        shrink_BHT1, p_BHTS = (highest_BHT1 - risen_BHT1).exp(), (scores_BHTS - risen_BHT1).exp()
        weights_BHT1 = weights_BHT1 * shrink_BHT1 + p_BHTS.sum(-1, keepdim=True)
        values_BHTC = values_BHTC * shrink_BHT1 + p_BHTS @ v_BHTC
        highest_BHT1 = risen_BHT1
        if step < ranks - 1:
            k_BHTC, v_BHTC = SendOn.apply(k_BHTC), SendOn.apply(v_BHTC)
    return values_BHTC / weights_BHT1
