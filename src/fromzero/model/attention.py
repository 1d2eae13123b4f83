"""Attention with grouped heads (MHA, GQA and MQA are one class), over a sequence itself or over an encoder's states."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromzero.model import functions
from fromzero.model.config import ModelConfig
from fromzero.model.layers import Linear, Norm
from fromzero.model.scene import Memory, Scene


class LayerCache:
    """What attention needs of a cache: take what is new, give all so far."""

    def append(self, *new_BKTC: Tensor) -> tuple[Tensor, ...]:
        """Store the new keys and values (B, K, T, C), or latent vectors, behind the old; each of them so far."""
        raise NotImplementedError


class Attention(nn.Module):
    """(B, T, D) -> (B, T, D); who sees whom is in the scene."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.key_value_heads, config.head_size
        self.scale, self.softcap = config.attention_scale, config.attention_softcap
        self.query = Linear(config.width, self.heads * self.head_width, config.attention_biased)
        self.key = Linear(config.width, self.kv_heads * self.head_width, config.attention_biased)
        self.value = Linear(config.width, self.kv_heads * self.head_width, config.attention_biased)
        self.output = Linear(self.heads * self.head_width, config.width, config.bias)
        self.query_norm = self.key_norm = None
        self.normed_whole = config.qk_norm == "full"
        if config.qk_norm:
            full = self.normed_whole
            self.query_norm = Norm(config, (self.heads if full else 1) * self.head_width, rms=True)
            self.key_norm = Norm(config, (self.kv_heads if full else 1) * self.head_width, rms=True)
        self.sinks = nn.Parameter(torch.empty(self.heads)) if config.sinks else None

    def forward(self, x_BTD: Tensor, scene: Scene, cache: LayerCache | None = None) -> Tensor:
        """Self-attention; with a cache, over what it holds too."""
        q_BTHC = self._heads(self.query(x_BTD), self.query_norm)
        k_BTKC = self._heads(self.key(x_BTD), self.key_norm)
        v_BTKC = self._heads(self.value(x_BTD))
        q_BTHC, k_BTKC = turn(q_BTHC, scene), turn(k_BTKC, scene)
        k_BKSC, v_BKSC = k_BTKC.transpose(1, 2), v_BTKC.transpose(1, 2)
        if cache is not None:
            k_BKSC, v_BKSC = cache.append(k_BKSC, v_BKSC)
        return self._mixed(q_BTHC, k_BKSC, v_BKSC, scene)

    def across(self, x_BTD: Tensor, memory: Memory, layer: int) -> Tensor:
        """Cross-attention over an encoder's states."""
        q_BTHC = self._heads(self.query(x_BTD), self.query_norm)
        return self._mixed(q_BTHC, *self.remembered(memory, layer), memory.scene())

    def remembered(self, memory: Memory, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, S, C) of an encoder's states, made once for each memory."""
        if layer not in memory.pairs:
            k_BSKC = self._heads(self.key(memory.states_BSD), self.key_norm)
            v_BSKC = self._heads(self.value(memory.states_BSD))
            memory.pairs[layer] = (k_BSKC.transpose(1, 2), v_BSKC.transpose(1, 2))
        return memory.pairs[layer]

    def _heads(self, x: Tensor, norm: Norm | None = None) -> Tensor:
        """(B, T, heads x C) -> (B, T, heads, C), normed over what the norm is wide."""
        if norm is not None and self.normed_whole:
            x, norm = norm(x), None
        x = x.unflatten(-1, (-1, self.head_width))
        return x if norm is None else norm(x)

    def _mixed(self, q_BTHC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, scene: Scene) -> Tensor:
        mixed_BHTC = attend(q_BTHC.transpose(1, 2), k_BKSC, v_BKSC, scene, self.scale, self.softcap, self.sinks)
        return self.output(mixed_BHTC.transpose(1, 2).flatten(2))


def turn(x_BTHC: Tensor, scene: Scene) -> Tensor:
    """Rotary positions, if there are; before heads and positions change places: the memory is still in one piece."""
    return x_BTHC if scene.angles is None else functions.rotary(x_BTHC, *scene.angles)


def attend(
    q_BHTC: Tensor,
    k_BKSC: Tensor,
    v_BKSC: Tensor,
    scene: Scene,
    scale: float | None = None,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Attention on torch's fused kernels where they can do it; (B, H, T, C).

    Equal to functions.scaled_dot_product_attention with repeated heads and the scene's mask.
    """
    if scene.attend is not None:
        return scene.attend(q_BHTC, k_BKSC, v_BKSC, scale, softcap, sinks_H)
    if k_BKSC.shape[2] > scene.keys:
        k_BKSC, v_BKSC = k_BKSC[:, :, -scene.keys :], v_BKSC[:, :, -scene.keys :]
    groups = q_BHTC.shape[1] // k_BKSC.shape[1]
    mask = scene.mask_BHTS
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q_BHTC.dtype)
    if groups > 1 and q_BHTC.shape[2] == 1 and softcap is None and sinks_H is None:
        return _one_query(q_BHTC, k_BKSC, v_BKSC, mask, scale)
    if groups > 1:
        k_BKSC, v_BKSC = functions.repeat_heads(k_BKSC, groups), functions.repeat_heads(v_BKSC, groups)
    if softcap is None and sinks_H is None:
        return F.scaled_dot_product_attention(
            q_BHTC, k_BKSC, v_BKSC, attn_mask=mask, is_causal=scene.causal, scale=scale
        )
    if scene.causal:
        mask = functions.causal_mask(q_BHTC.shape[2], scene.keys, q_BHTC.device)
    return _written_out(q_BHTC, k_BKSC, v_BKSC, mask, scale, softcap, sinks_H)


def _written_out(
    q_BHTC: Tensor,
    k_BHSC: Tensor,
    v_BHSC: Tensor,
    mask: Tensor | None,
    scale: float | None,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """What torch's kernels can't do, in as few passes over the scores as there are: factors go with the queries."""
    scale = q_BHTC.shape[-1] ** -0.5 if scale is None else scale
    scores_BHTS = (q_BHTC * (scale / (softcap or 1.0))) @ k_BHSC.transpose(-2, -1)
    scores_BHTS = scores_BHTS if softcap is None else scores_BHTS.tanh_()
    if mask is None:
        scores_BHTS = scores_BHTS * (softcap or 1.0)
    else:
        if mask.dtype == torch.bool:
            mask = scores_BHTS.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
        scores_BHTS = torch.add(mask, scores_BHTS, alpha=softcap or 1.0)
    if sinks_H is not None:
        sinks_BHT1 = sinks_H.to(scores_BHTS.dtype)[:, None, None].expand(*scores_BHTS.shape[:-1], 1)
        return torch.cat([scores_BHTS, sinks_BHT1], -1).softmax(-1)[..., :-1] @ v_BHSC
    return scores_BHTS.softmax(-1) @ v_BHSC


def _one_query(q_BH1C: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """One new token: the heads that share a key go as if they were queries, and no key is copied."""
    groups = (k_BKSC.shape[1], -1)
    if mask is not None and mask.shape[1] > 1:  # (B, H, 1, S)
        mask = mask.squeeze(2).unflatten(1, groups)
    q_BKGC = q_BH1C.squeeze(2).unflatten(1, groups)
    mixed_BKGC = F.scaled_dot_product_attention(q_BKGC, k_BKSC, v_BKSC, attn_mask=mask, scale=scale)
    return mixed_BKGC.flatten(1, 2).unsqueeze(2)
