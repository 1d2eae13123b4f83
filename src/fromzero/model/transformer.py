"""The one composable Transformer, decoder part.

Pre-norm blocks on a residual stream: x + attention(norm(x)), then x + feed_forward(norm(x)); a last norm; logits.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.model.attention import Attention, LayerCache, rotary_tables
from fromzero.model.config import ModelConfig
from fromzero.model.initialize import initialize
from fromzero.model.layers import Embedding, FeedForward, Linear, Norm


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
    """One layer: attention, then feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = Norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = config.dropout

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor] | None, cache: LayerCache | None) -> Tensor:
        x_BTD = x_BTD + self._drop(self.attention(self.attention_norm(x_BTD), angles, cache))
        return x_BTD + self._drop(self.feed_forward(self.feed_forward_norm(x_BTD)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Transformer(nn.Module):
    """ids (B, T) -> logits (B, T, V)."""

    cos_SR: Tensor
    sin_SR: Tensor

    def __init__(self, config: ModelConfig, seed: int = 0, compute_dtype: torch.dtype = torch.float32) -> None:
        """Random weights drawn from `seed`, in fp32; activations are in `compute_dtype`."""
        super().__init__()
        if config.vocab_size < 1:
            raise UserError("model.vocab_size is 0: give the size of the tokenizer, ModelConfig.with_vocab fills it in")
        self.config, self.compute_dtype = config, compute_dtype
        self.token_embedding = Embedding(config.vocab_size, config.width)
        self.position_embedding = Embedding(config.context, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = Norm(config)
        self.head = None if config.tied else Linear(config.width, config.vocab_size, bias=False)
        if config.positions == "rotary":
            cos_SR, sin_SR = rotary_tables(config)
            self.register_buffer("cos_SR", cos_SR, persistent=False)
            self.register_buffer("sin_SR", sin_SR, persistent=False)
        initialize(self, seed)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D): its own, or the token embedding when they are tied."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    def forward(self, ids_BT: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits (B, T, V) in the compute dtype. With a cache, ids are the next T tokens after what it holds."""
        x_BTD = self.hidden(ids_BT, cache)
        return F.linear(x_BTD, self.head_weight.to(x_BTD.dtype))

    def hidden(self, ids_BT: Tensor, cache: Cache | None = None) -> Tensor:
        """The normed hidden states (B, T, D) that the output matrix is applied to.

        Raises UserError when the sequence would go past the context.
        """
        start = 0 if cache is None else cache.position
        end = start + ids_BT.shape[1]
        if end > self.config.context:
            raise UserError(f"{end} tokens do not fit the model's context of {self.config.context}; shorten the input")
        x_BTD = self.token_embedding(ids_BT)
        if self.position_embedding is not None:
            x_BTD = x_BTD + self.position_embedding.weight[start:end]
        x_BTD = x_BTD.to(self.compute_dtype)
        if self.config.dropout:
            x_BTD = F.dropout(x_BTD, self.config.dropout, self.training)
        angles = None if self.position_embedding is not None else (self.cos_SR[start:end], self.sin_SR[start:end])
        for index, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, angles, None if cache is None else cache.layer(index))
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        return self.final_norm(x_BTD)

    def parameter_count(self, embeddings: bool = True) -> int:
        """Number of parameters, tied ones once; without `embeddings`, the token and position tables don't count."""
        total = sum(p.numel() for p in self.parameters())
        if embeddings:
            return total
        tables = (self.token_embedding, self.position_embedding)
        return total - sum(p.numel() for table in tables if table is not None for p in table.parameters())

    def flops_per_token(self) -> float:
        """Floating-point operations per token of a forward and backward pass at full context.

        6 for each weight of a matrix product, plus 12 D_attention T / 2 for the causal half of attention's two
        products in each layer (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B).
        """
        config = self.config
        matrices = sum(p.numel() for block in self.blocks for p in block.parameters() if p.dim() == 2)
        matrices += self.head_weight.numel()
        attention = config.layers * config.heads * config.head_size * config.context
        return 6.0 * matrices + 6.0 * attention
