"""Multi-head latent attention: keys and values of all heads are made from one small vector of each token.

DeepSeek-V2 (2024), section 2.1. The cache holds that vector and one rotary key that all heads share. A head's key is
[key_up c ; rotary key], its value value_up c. For few new tokens over many old ones, the two matrices go to the other
side (the paper's "absorbed" form): q . (key_up c) = (key_up^T q) . c, so attention runs over the vectors themselves, as
with one key head, and value_up is applied to what comes out.
"""

import torch
from torch import Tensor, nn

from fromzero.model.attention import LayerCache, attend, turn
from fromzero.model.config import Latent, ModelConfig
from fromzero.model.layers import Linear, Norm
from fromzero.model.scene import Scene


class LatentAttention(nn.Module):
    """(B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, shape: Latent) -> None:
        super().__init__()
        self.shape, self.heads = shape, config.heads
        self.scale = config.head_size**-0.5 if config.attention_scale is None else config.attention_scale
        queries = config.heads * config.head_size
        self.query = self.query_down = self.query_norm = self.query_up = None
        if shape.query_rank is None:
            self.query = Linear(config.width, queries, bias=False)
        else:
            self.query_down = Linear(config.width, shape.query_rank, bias=False)
            self.query_norm = Norm(config, shape.query_rank, rms=True)
            self.query_up = Linear(shape.query_rank, queries, bias=False)
        self.latent_down = Linear(config.width, shape.kv_rank + shape.rope_width, bias=False)
        self.latent_norm = Norm(config, shape.kv_rank, rms=True)
        self.key_up = Linear(shape.kv_rank, config.heads * shape.nope_width, bias=False)
        self.value_up = Linear(shape.kv_rank, config.heads * shape.value_width, bias=False)
        self.output = Linear(config.heads * shape.value_width, config.width, bias=False)

    def forward(self, x_BTD: Tensor, scene: Scene, cache: LayerCache | None = None) -> Tensor:
        q_BTHC = self._queries(x_BTD).unflatten(-1, (self.heads, -1))
        plain_q, turned_q = q_BTHC.split([self.shape.nope_width, self.shape.rope_width], -1)
        turned_q = turn(turned_q, scene)
        c, turned_k = self.latent_down(x_BTD).unsqueeze(2).split([self.shape.kv_rank, self.shape.rope_width], -1)
        c_B1SL = self.latent_norm(c).transpose(1, 2)
        k_B1SR = turn(turned_k, scene).transpose(1, 2)
        if cache is not None:
            c_B1SL, k_B1SR = cache.append(c_B1SL, k_B1SR)
        absorbed = cache is not None and (scene.attend is not None or self._absorbs(x_BTD.shape[1]))
        mix = self._absorbed if absorbed else self._expanded
        mixed_BHTC = mix(plain_q.transpose(1, 2), turned_q.transpose(1, 2), c_B1SL, k_B1SR, scene)
        return self.output(mixed_BHTC.transpose(1, 2).flatten(2))

    def _queries(self, x_BTD: Tensor) -> Tensor:
        for layer in (self.query, self.query_down, self.query_norm, self.query_up):
            x_BTD = x_BTD if layer is None else layer(x_BTD)
        return x_BTD

    def _absorbs(self, queries: int) -> bool:
        """Whether the longer products over latent vectors cost less than making the keys and values of all of them."""
        made = self.shape.nope_width + self.shape.value_width
        return queries * (2 * self.shape.kv_rank - made) < self.shape.kv_rank * made

    def _expanded(self, plain_q: Tensor, turned_q: Tensor, c_B1SL: Tensor, k_B1SR: Tensor, scene: Scene) -> Tensor:
        """Keys and values of every head, then attention as always."""
        k_BHSC = self.key_up(c_B1SL[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        v_BHSC = self.value_up(c_B1SL[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k_BHSC = torch.cat([k_BHSC, k_B1SR.expand(-1, self.heads, -1, -1)], -1)
        q_BHTC = torch.cat([plain_q, turned_q], -1)
        return attend(q_BHTC, k_BHSC, v_BHSC, scene, self.scale)

    def _absorbed(self, plain_q: Tensor, turned_q: Tensor, c_B1SL: Tensor, k_B1SR: Tensor, scene: Scene) -> Tensor:
        """Attention over the latent vectors."""
        key_up_HCL = self.key_up.weight.to(plain_q.dtype).unflatten(0, (self.heads, -1))
        value_up_HCL = self.value_up.weight.to(plain_q.dtype).unflatten(0, (self.heads, -1))
        q_BHTL = torch.cat([plain_q @ key_up_HCL, turned_q], -1)
        mixed_BHTL = attend(q_BHTL, torch.cat([c_B1SL, k_B1SR], -1), c_B1SL, scene, self.scale)
        return mixed_BHTL @ value_up_HCL.transpose(1, 2)
