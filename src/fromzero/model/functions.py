"""Each layer as a plain function on tensors: the formulas, to be read, and the reference for every faster form.

Dimensions: B batch, T queries, S keys, D width, F feed-forward width, H heads, K key/value heads, C head width,
V vocabulary.
"""

import math

import torch
from torch import Tensor


def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`; the maximum is taken off first, so that exp can't overflow."""
    weights = torch.exp(x - x.amax(dim, keepdim=True))
    return weights / weights.sum(dim, keepdim=True)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in fp32 (Zhang and Sennrich 2019, eq. 4)."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight.to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension, in fp32 (Ba et al. 2016)."""
    wide = x.float()
    centred = wide - wide.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normed = normed * weight.float() + (0.0 if bias is None else bias.float())
    return normed.to(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """x * Phi(x), with the normal distribution's exact Phi (Hendrycks and Gimpel 2016)."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU's tanh approximation, which GPT-2 uses."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return x / (1 + torch.exp(-x))


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021)."""
    return x.clamp(min=0).square()


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020)."""
    return silu(gate) * up


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up (Shazeer 2020)."""
    return gelu(gate) * up


def causal_mask(queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor:
    """Boolean (T, S), True where a query may attend: the last query sees every key, each earlier one a key less."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def scaled_dot_product_attention(
    q_BHTC: Tensor,
    k_BHSC: Tensor,
    v_BHSC: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(C)) v (Vaswani et al. 2017, eq. 1).

    mask: (T, S) or with H and B before; boolean, True means attend; or numbers that are added to the scores.
    scale: in place of 1 / sqrt(C). softcap: see `softcap`. sinks_H: a score for each head that takes its share of
    the softmax and gives nothing (Agarwal et al. 2025, GPT-OSS).
    """
    scores_BHTS = q_BHTC @ k_BHSC.transpose(-2, -1) * (q_BHTC.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores_BHTS = soft_cap(scores_BHTS, softcap)
    if mask is not None:
        boolean = mask.dtype == torch.bool
        scores_BHTS = scores_BHTS.masked_fill(~mask, float("-inf")) if boolean else scores_BHTS + mask
    if sinks_H is None:
        return softmax(scores_BHTS) @ v_BHSC
    sinks_BHT1 = sinks_H.to(scores_BHTS.dtype)[:, None, None].expand(*scores_BHTS.shape[:-1], 1)
    return softmax(torch.cat([scores_BHTS, sinks_BHT1], -1))[..., :-1] @ v_BHSC


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap tanh(x / cap): nearly x while it is small, never beyond +-cap (Bello et al. 2016; Gemma 2)."""
    return cap * torch.tanh(x / cap)


def repeat_heads(x_BKSC: Tensor, groups: int) -> Tensor:
    """(B, K, S, C) -> (B, K * groups, S, C): each key/value head serves `groups` query heads in a row."""
    return x_BKSC.repeat_interleave(groups, dim=1)


def rotary_frequencies(head_width: int, base: float) -> Tensor:
    """base^(-2i/C) for each pair i of channels, (C/2,) in fp64 (Su et al. 2021, eq. 15)."""
    return base ** -(torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu") / head_width)


def rotary_angles(positions_T: Tensor, frequencies_R: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, each (T, C/2) in fp32, of position x frequency."""
    # In fp64: the product loses whole radians in fp32 when the context is long.
    angles = positions_T.double()[:, None] * frequencies_R
    return angles.cos().float(), angles.sin().float()


def rotary(x_BHTC: Tensor, cos_TR: Tensor, sin_TR: Tensor, layout: str = "half") -> Tensor:
    """Turn pairs of channels by their position's angles; R = C/2.

    layout: which channels are a pair: 'half' takes (i, i + C/2), as Hugging Face and GPT-NeoX do; 'interleaved'
    takes (2i, 2i + 1), as the paper and llama2.c do. Weights made for one give nonsense with the other.
    """
    if layout == "half":
        first, second = x_BHTC.chunk(2, dim=-1)
    elif layout == "interleaved":
        first, second = x_BHTC[..., 0::2], x_BHTC[..., 1::2]
    else:
        raise ValueError(f"rotary layout is 'half' or 'interleaved', not {layout!r}")
    cos, sin = cos_TR.to(x_BHTC.dtype), sin_TR.to(x_BHTC.dtype)
    turned = first * cos - second * sin, second * cos + first * sin
    return torch.cat(turned, -1) if layout == "half" else torch.stack(turned, -1).flatten(-2)


def mixture(x_ND: Tensor, experts_NA: Tensor, weights_NA: Tensor, matrices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Each token's sum of weight x expert(token); matrices: gate and up (E, F, D), down (E, D, F), with SwiGLU."""
    gate_EFD, up_EFD, down_EDF = matrices
    rows = []
    for x_D, experts_A, weights_A in zip(x_ND, experts_NA, weights_NA, strict=True):
        outputs = [down_EDF[e] @ swiglu(gate_EFD[e] @ x_D, up_EFD[e] @ x_D) for e in experts_A]
        rows.append(sum((w * y for w, y in zip(weights_A, outputs, strict=True)), torch.zeros_like(x_D)))
    return torch.stack(rows)


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, ignore: int = -100) -> Tensor:
    """-log softmax(logits)[target] for each row, in nats, fp32; 0 where the target is `ignore`."""
    wide = logits_NV.float()
    counted = targets_N != ignore
    picked = wide.gather(-1, targets_N.clamp(min=0)[..., None]).squeeze(-1)
    return torch.where(counted, torch.logsumexp(wide, -1) - picked, 0.0)
