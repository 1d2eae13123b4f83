"""Attention as a textbook builds it up, one idea a function; the last one is what `attention.Attention` does fast.

x is (..., T, D); matrices are (out, in), so a projection is x W^T.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fromzero.model.functions import causal_mask, softmax

Matrices = tuple[Tensor, Tensor, Tensor]
"""Those that make queries, keys and values."""


def simplified_self_attention(x_TD: Tensor) -> Tensor:
    """Nothing to learn yet: each token becomes a mean of all, weighted by how alike they are."""
    return softmax(x_TD @ x_TD.mT) @ x_TD


def attention_weights(q_TC: Tensor, k_TC: Tensor) -> Tensor:
    """Shares (T, T) that sum to 1 in each row. Dividing by sqrt(C) keeps the scores' variance at that of q and k."""
    return softmax(q_TC @ k_TC.mT / k_TC.shape[-1] ** 0.5)


def self_attention(x_TD: Tensor, matrices: Matrices) -> Tensor:
    """Learned: what a token looks for (query), what it is found by (key), and what it gives (value), are different."""
    q_TC, k_TC, v_TC = (x_TD @ matrix_CD.mT for matrix_CD in matrices)
    return attention_weights(q_TC, k_TC) @ v_TC


def causal_self_attention(
    x_TD: Tensor, matrices: Matrices, dropout: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """No token sees what comes after it: those shares are set to 0, and the rest divided by what is left.

    dropout: so large a part of the shares is set to 0 at random, and the others grow to keep the mean.
    """
    q_TC, k_TC, v_TC = (x_TD @ matrix_CD.mT for matrix_CD in matrices)
    shares_TT = attention_weights(q_TC, k_TC) * causal_mask(x_TD.shape[-2], x_TD.shape[-2], x_TD.device)
    shares_TT = shares_TT / shares_TT.sum(-1, keepdim=True)
    if dropout:
        kept_TT = torch.rand(shares_TT.shape, generator=generator, device=x_TD.device) >= dropout
        shares_TT = shares_TT * kept_TT / (1 - dropout)
    return shares_TT @ v_TC


def stacked_heads(x_TD: Tensor, heads: Sequence[Matrices], output_DE: Tensor) -> Tensor:
    """Several heads look for different things, one after the other; `output` mixes what they found."""
    return torch.cat([causal_self_attention(x_TD, matrices) for matrices in heads], -1) @ output_DE.mT


def split_heads(x_TD: Tensor, matrices: Matrices, heads: int, output_DE: Tensor) -> Tensor:
    """All heads at once: one large matrix instead of many, and the heads become a dimension of their own."""
    q_HTC, k_HTC, v_HTC = ((x_TD @ matrix.mT).unflatten(-1, (heads, -1)).transpose(-2, -3) for matrix in matrices)
    scores_HTT = q_HTC @ k_HTC.mT / k_HTC.shape[-1] ** 0.5
    unseen_TT = ~causal_mask(x_TD.shape[-2], x_TD.shape[-2], x_TD.device)
    mixed_HTC = softmax(scores_HTT.masked_fill(unseen_TT, float("-inf"))) @ v_HTC  # exp(-inf) is the share 0 at once
    return mixed_HTC.transpose(-2, -3).flatten(-2) @ output_DE.mT
