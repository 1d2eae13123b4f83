"""Causal self-attention with grouped heads (MHA, GQA and MQA are one class), rotary positions and a cache."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromzero.model import functions
from fromzero.model.config import ModelConfig
from fromzero.model.layers import Linear


class LayerCache:
    """What attention needs of a cache: take the new keys and values, give all so far."""

    def append(self, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new (B, K, T, C) behind the old and return both as (B, K, S, C)."""
        raise NotImplementedError


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D); each position attends to itself and what came before it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.key_value_heads, config.head_size
        self.query = Linear(config.width, self.heads * self.head_width, config.bias)
        self.key = Linear(config.width, self.kv_heads * self.head_width, config.bias)
        self.value = Linear(config.width, self.kv_heads * self.head_width, config.bias)
        self.output = Linear(self.heads * self.head_width, config.width, config.bias)

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor] | None, cache: LayerCache | None = None) -> Tensor:
        """angles: cos and sin (T, C/2) of the positions of x, or None without rotary positions."""
        q_BTHC = self.query(x_BTD).unflatten(-1, (self.heads, self.head_width))
        k_BTKC = self.key(x_BTD).unflatten(-1, (self.kv_heads, self.head_width))
        v_BTKC = self.value(x_BTD).unflatten(-1, (self.kv_heads, self.head_width))
        if angles is not None:  # before heads and positions change places: the memory is still in one piece
            cos_T1R, sin_T1R = angles[0][:, None], angles[1][:, None]
            q_BTHC = functions.rotary(q_BTHC, cos_T1R, sin_T1R)
            k_BTKC = functions.rotary(k_BTKC, cos_T1R, sin_T1R)
        q_BHTC, k_BKTC, v_BKTC = (x.transpose(1, 2) for x in (q_BTHC, k_BTKC, v_BTKC))
        if cache is not None:
            k_BKTC, v_BKTC = cache.append(k_BKTC, v_BKTC)
        mixed_BHTC = causal_attention(q_BHTC, k_BKTC, v_BKTC)
        return self.output(mixed_BHTC.transpose(1, 2).flatten(2))


def causal_attention(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor) -> Tensor:
    """Causal attention of T queries, the newest, over S >= T keys, on torch's fused kernels; (B, H, T, C).

    Equal to functions.scaled_dot_product_attention with functions.causal_mask and repeated heads.
    """
    groups = q_BHTC.shape[1] // k_BKSC.shape[1]
    queries, keys = q_BHTC.shape[2], k_BKSC.shape[2]
    mask_TS = None
    if 1 < queries < keys:  # torch's is_causal aligns the mask to the first key; a cache needs it aligned to the last
        mask_TS = functions.causal_mask(queries, keys, q_BHTC.device)
    return F.scaled_dot_product_attention(
        q_BHTC,
        functions.repeat_heads(k_BKSC, groups) if groups > 1 else k_BKSC,
        functions.repeat_heads(v_BKSC, groups) if groups > 1 else v_BKSC,
        attn_mask=mask_TS,
        is_causal=queries == keys and queries > 1,
    )


def rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and sin, each (context, C/2) in fp32, for every position of the context."""
    return functions.rotary_angles(torch.arange(config.context), config.head_size, config.rope_base)
