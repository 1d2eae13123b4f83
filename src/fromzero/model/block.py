"""One layer, and a stack of them: embedded tokens in, normed hidden states out."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.model.attention import Attention, LayerCache
from fromzero.model.config import ModelConfig
from fromzero.model.experts import Mixture
from fromzero.model.latent_attention import LatentAttention
from fromzero.model.layers import Embedding, FeedForward, Norm
from fromzero.model.positions import Angles
from fromzero.model.recompute import Recompute, recomputed
from fromzero.model.scene import Memory, Scene, Tokens, make_scene


class Cache(Protocol):
    """What the model needs of a key/value cache: where it is, and a view for each layer."""

    @property
    def position(self) -> int:
        """Tokens stored so far."""

    def layer(self, index: int) -> LayerCache:
        """The view that layer `index` appends to."""

    def advance(self, tokens: int) -> None:
        """Say that every layer has stored that many more."""


class Block(nn.Module):
    """Attention, attention over a memory where there is one, feed-forward: each normed and added to the stream."""

    def __init__(self, config: ModelConfig, layer: int = 0, cross: bool = False) -> None:
        super().__init__()
        self.layer, self.placement, self.dropout = layer, config.norm_placement, config.dropout
        sandwich = config.norm_placement == "sandwich"
        self.attention_norm = Norm(config)
        self.attention = LatentAttention(config, config.latent) if config.latent else Attention(config)
        self.attention_output_norm = Norm(config) if sandwich else None
        self.cross_norm = Norm(config) if cross else None
        self.cross = Attention(config) if cross else None
        self.feed_forward_norm = None if config.parallel else Norm(config)
        routed = config.experts if config.routed(layer) else None
        self.feed_forward = Mixture(config, routed) if routed else FeedForward(config)
        self.feed_forward_output_norm = Norm(config) if sandwich else None
        self.recompute: Recompute = "none"
        """What of it is worked out again in the backward pass of training."""
        self._compiled: Callable[..., Tensor] | None = None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As nn.Module.compile, for training alone (caches change shape all the time), and inside of `recompute`."""
        self._compiled = torch.compile(self._layers, *args, **kwargs)

    def forward(
        self, x_BTD: Tensor, scene: Scene, cache: LayerCache | None = None, memory: Memory | None = None
    ) -> Tensor:
        if not self.training or cache is not None:
            return self._layers(x_BTD, scene, cache, memory)
        layers = self._compiled or self._layers
        # The compiler keeps only what is dear itself.
        if self.recompute == "none" or (self.recompute == "selective" and self._compiled):
            return layers(x_BTD, scene, None, memory)
        return recomputed(self, layers, self.recompute, x_BTD, scene, memory, self.dropout > 0)

    def _layers(self, x_BTD: Tensor, scene: Scene, cache: LayerCache | None, memory: Memory | None) -> Tensor:
        if self.feed_forward_norm is None:
            normed_BTD = self.attention_norm(x_BTD)
            return x_BTD + self._drop(self.attention(normed_BTD, scene, cache) + self.feed_forward(normed_BTD))
        x_BTD = self._added(
            x_BTD, lambda y: self.attention(y, scene, cache), self.attention_norm, self.attention_output_norm
        )
        if (cross := self.cross) is not None and self.cross_norm is not None:
            assert memory is not None, "a block with cross-attention needs a memory"
            x_BTD = self._added(x_BTD, lambda y: cross.across(y, memory, self.layer), self.cross_norm)
        return self._added(x_BTD, self.feed_forward, self.feed_forward_norm, self.feed_forward_output_norm)

    def _added(self, x: Tensor, sublayer: Callable[[Tensor], Tensor], norm: Norm, last: Norm | None = None) -> Tensor:
        """x and what the sublayer makes of it, with the norm where the config places it."""
        if self.placement == "post":
            return norm(x + self._drop(sublayer(x)))
        if self.placement == "output":
            return x + self._drop(norm(sublayer(x)))
        y = sublayer(norm(x))
        return x + self._drop(y if last is None else last(y))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Section(NamedTuple):
    """What one stage of a pipeline runs of a stack."""

    layers: range
    x_BTD: Tensor | None = None
    """Hidden states from the stage before; None on the first, which embeds."""
    last: bool = True
    """Whether the last norm follows."""


class Stack(nn.Module):
    """Embedded tokens (B, T, D) -> hidden states (B, T, D): positions, blocks, the last norm."""

    def __init__(self, config: ModelConfig, layers: int, causal: bool, cross: bool = False) -> None:
        super().__init__()
        self.config, self.causal = config, causal
        self.section: Section | None = None  # all of it, unless a pipeline has cut it
        learned, relative = config.positions == "learned", config.positions == "relative"
        self.position_embedding = Embedding(config.context, config.width) if learned else None
        self.type_embedding = Embedding(config.token_types, config.width) if config.token_types else None
        self.relative_bias = Embedding(config.relative_buckets, config.heads) if relative else None
        self.embedding_norm = Norm(config) if config.embedding_norm else None
        self.blocks = nn.ModuleList(Block(config, layer, cross) for layer in range(layers))
        self.final_norm = None if config.norm_placement == "post" else Norm(config)
        self.own_heads = slice(None)
        """Of all heads, those whose scores' biases are made here; the others' are on other devices."""
        self._windowed = [config.windowed(layer) for layer in range(layers)]
        self._angles = Angles(config.rope_width, config.rope_base, config.context, config.rope_scaling)
        local = config.local_rope_base
        self._local_angles = Angles(config.rope_width, local, config.context) if local else self._angles
        self._waves = Angles(config.width, 10000.0, config.context)

    def run(
        self,
        x_BTD: Tensor,
        dtype: torch.dtype,
        cache: Cache | None = None,
        *,
        types_BT: Tensor | None = None,
        memory: Memory | None = None,
        **marks: Any,
    ) -> Tensor:
        """Hidden states in `dtype` of embedded tokens; see Transformer.forward; marks are those of Tokens.

        Raises UserError when the sequence would go past the context.
        """
        start, count = 0 if cache is None else cache.position, x_BTD.shape[1]
        if start + count > self.config.context and "attend" not in marks:  # else it may be many sequences' tokens
            raise UserError(
                f"{start + count} tokens do not fit the model's context of {self.config.context}; shorten the input"
            )
        tokens = Tokens(start, count, x_BTD.device, **marks)
        section = self.section or Section(range(len(self.blocks)))
        if section.x_BTD is None:
            x_BTD = self.embedded(x_BTD, tokens, types_BT).to(dtype)
        scenes = {windowed: self._scene(tokens, windowed) for windowed in set(self._windowed)}
        x_BTD = self.through(x_BTD, section.layers, scenes, cache, memory)
        if cache is not None:
            cache.advance(count)
        return x_BTD if self.final_norm is None or not section.last else self.final_norm(x_BTD)

    def through(
        self, x_BTD: Tensor, layers: range, scenes: dict[bool, Scene], cache: Cache | None, memory: Memory | None
    ) -> Tensor:
        """Some blocks, one after the other; scenes: with and without a window."""
        for index in layers:
            layer_cache = None if cache is None else cache.layer(index)
            x_BTD = self.blocks[index](x_BTD, scenes[self._windowed[index]], layer_cache, memory)
        return x_BTD

    def embedded(self, x_BTD: Tensor, tokens: Tokens, types_BT: Tensor | None = None) -> Tensor:
        """What is added to the embeddings of tokens before the first block."""
        if self.type_embedding is not None:
            x_BTD = x_BTD + (self.type_embedding.weight[0] if types_BT is None else self.type_embedding(types_BT))
        if self.position_embedding is not None:
            x_BTD = x_BTD + self.position_embedding.weight[tokens.positions]
        elif self.config.positions == "sinusoidal":
            cos, sin = self._waves.at(tokens.positions, x_BTD.device)
            x_BTD = x_BTD + torch.stack([sin, cos], -1).flatten(-2)[..., : self.config.width]
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        return F.dropout(x_BTD, self.config.dropout, self.training) if self.config.dropout else x_BTD

    def angles(self, tokens: Tokens, windowed: bool) -> tuple[Tensor, Tensor]:
        """Rotary cos and sin, fp32, (T, R) or (B, T, R), in layers with a window or in those without."""
        return (self._local_angles if windowed else self._angles).at(tokens.positions, tokens.device)

    def _scene(self, tokens: Tokens, windowed: bool) -> Scene:
        angles = None
        if self.config.positions == "rotary":
            cos, sin = self.angles(tokens, windowed)
            angles = cos.unsqueeze(-2), sin.unsqueeze(-2)
        table = None if self.relative_bias is None else self.relative_bias.weight
        return make_scene(self.config, tokens, self.causal, windowed, angles, table, self.own_heads)
