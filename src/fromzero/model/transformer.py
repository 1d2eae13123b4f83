"""The one composable Transformer: a decoder, or an encoder, as its config says."""

from typing import Any

import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.model.block import Cache, Stack
from fromzero.model.config import ModelConfig
from fromzero.model.initialize import initialize
from fromzero.model.layers import Embedding, Head


class Transformer(Stack):
    """ids (B, T) -> logits (B, T, V)."""

    def __init__(self, config: ModelConfig, seed: int = 0, compute_dtype: torch.dtype = torch.float32) -> None:
        """Random weights drawn from `seed`, in fp32; activations are in `compute_dtype`."""
        if config.vocab_size < 1:
            raise UserError("model.vocab_size is 0: give the size of the tokenizer, ModelConfig.with_vocab fills it in")
        if config.kind == "encoder_decoder":
            raise UserError("model.kind is encoder_decoder: build model.EncoderDecoder")
        super().__init__(config, config.layers, causal=config.kind == "decoder")
        self.compute_dtype = compute_dtype
        self.token_embedding = Embedding(config.vocab_size, config.width)
        self.head = Head(config)
        initialize(self, config.layers, seed)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix (V, D): its own, or the token embedding when they are tied."""
        return self.token_embedding.weight if self.head.weight is None else self.head.weight

    def forward(self, ids_BT: Tensor, cache: Cache | None = None, **given: Any) -> Tensor:
        """Logits (B, T, V) in the compute dtype. With a cache, ids are the next T tokens after what it holds.

        given: keep_BT, True for real tokens, over those in the cache too (padding may be left or right);
        positions_BT, else counted among those to keep; types_BT, kinds of segments; prefix_B, so many first tokens
        see each other; memory, a Memory for cross-attention.
        """
        return self.head(self.hidden(ids_BT, cache, **given), self.head_weight)

    def hidden(self, ids_BT: Tensor, cache: Cache | None = None, **given: Any) -> Tensor:
        """The normed hidden states (B, T, D) that the output matrix is applied to; see forward.

        Raises UserError when the sequence would go past the context.
        """
        x_BTD = self.token_embedding(ids_BT)
        if self.config.embedding_scale != 1:
            x_BTD = x_BTD * self.config.embedding_scale
        return self.run(x_BTD, self.compute_dtype, cache, **given)

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
