"""The Transformer as it came first (Vaswani et al. 2017): an encoder reads the source, a decoder writes the target."""

from typing import Any

import torch
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.model.block import Cache, Stack
from fromzero.model.config import ModelConfig
from fromzero.model.initialize import initialize
from fromzero.model.layers import Embedding, Head
from fromzero.model.quantized import Matrix
from fromzero.model.scene import Memory
from fromzero.model.transformer import Transformer


class EncoderDecoder(nn.Module):
    """Source ids (B, S) and the target's ids so far (B, T) -> logits (B, T, V)."""

    def __init__(self, config: ModelConfig, seed: int = 0, compute_dtype: torch.dtype = torch.float32) -> None:
        """Random weights drawn from `seed`, in fp32; activations are in `compute_dtype`."""
        super().__init__()
        if config.vocab_size < 1 or config.kind != "encoder_decoder":
            raise UserError("an encoder_decoder needs model.kind encoder_decoder, and a vocab_size that is not 0")
        self.config, self.compute_dtype = config, compute_dtype
        self.token_embedding = Embedding(config.vocab_size, config.width)
        self.encoder = Stack(config, config.encoder_layers or config.layers, causal=False)
        self.decoder = Stack(config, config.layers, causal=True, cross=True)
        self.head = Head(config)
        initialize(self, config.layers, seed)

    @property
    def head_weight(self) -> Matrix:
        """The output matrix (V, D): its own, or the token embedding when they are tied."""
        return self.head.matrix(self.token_embedding)

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return next(self.parameters()).device

    def forward(self, source_BS: Tensor, inputs_BT: Tensor, keep_BS: Tensor | None = None) -> Tensor:
        """Logits of each target given those before it (teacher forcing): inputs are the targets, shifted right.

        keep_BS: True for real tokens of the source. Padding behind the targets needs no mask: none sees it.
        """
        return self.head(self.hidden(source_BS, inputs_BT, keep_BS), self.head_weight)

    def hidden(self, source_BS: Tensor, inputs_BT: Tensor, keep_BS: Tensor | None = None) -> Tensor:
        """The decoder's hidden states (B, T, D) that the output matrix is applied to."""
        return self.decoder.run(self._embed(inputs_BT), self.compute_dtype, memory=self.encode(source_BS, keep_BS))

    def encode(self, source_BS: Tensor, keep_BS: Tensor | None = None) -> Memory:
        """The source as the decoder sees it; what cross-attention makes of it is kept there, so it is made once."""
        states_BSD = self.encoder.run(self._embed(source_BS), self.compute_dtype, keep_BT=keep_BS)
        return Memory(states_BSD, keep_BS)

    def decode(self, ids_BT: Tensor, cache: Cache | None = None, **given: Any) -> Tensor:
        """Logits (B, T, V) of the next T ids after what the cache holds; `given` has the memory (see Transformer)."""
        return self.head(self.decode_hidden(ids_BT, cache, **given), self.head_weight)

    def decode_hidden(self, ids_BT: Tensor, cache: Cache | None = None, **given: Any) -> Tensor:
        """The decoder's hidden states (B, T, D) of the same."""
        return self.decoder.run(self._embed(ids_BT), self.compute_dtype, cache, **given)

    # What is said about every model is said in the same words.
    auxiliary_losses = Transformer.auxiliary_losses
    balance_experts = Transformer.balance_experts
    parameter_count = Transformer.parameter_count
    flops_per_token = Transformer.flops_per_token

    def _embed(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) * self.config.embedding_scale
