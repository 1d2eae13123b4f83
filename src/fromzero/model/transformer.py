"""The one composable Transformer: a decoder, or an encoder, as its config says."""

from typing import Any

import torch
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.model import counts
from fromzero.model.attention import LayerCache
from fromzero.model.block import Block, Cache, Stack
from fromzero.model.config import ModelConfig
from fromzero.model.experts import mixtures
from fromzero.model.initialize import initialize
from fromzero.model.layers import Embedding, Head, Linear, Norm
from fromzero.model.quantized import Matrix
from fromzero.model.scene import Scene, Tokens


class Ahead(nn.Module):
    """A block that predicts one token further (DeepSeek-V3, 2024, section 2.2)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm_hidden, self.norm_embedding = Norm(config), Norm(config)
        self.project = Linear(2 * config.width, config.width, bias=False)
        self.block = Block(config, layer)

    def forward(self, x_BTD: Tensor, embedded_BTD: Tensor, scene: Scene, cache: LayerCache | None = None) -> Tensor:
        """x: hidden states so far; embedded: the token that they predicted. The published weights have it first."""
        joined_BTE = torch.cat([self.norm_embedding(embedded_BTD), self.norm_hidden(x_BTD)], -1)
        return self.block(self.project(joined_BTE), scene, cache)


class Transformer(Stack):
    """ids (B, T) -> logits (B, T, V)."""

    def __init__(self, config: ModelConfig, seed: int = 0, compute_dtype: torch.dtype = torch.float32) -> None:
        """Random weights drawn from `seed`, in fp32; activations are in `compute_dtype`."""
        if config.vocab_size < 1:
            raise UserError("model.vocab_size is 0: give the size of the tokenizer, ModelConfig.with_vocab fills it in")
        if config.depth:
            raise UserError("model.depth is a dial of pretraining: build the shape that ModelConfig.with_depth() makes")
        if config.kind == "encoder_decoder":
            raise UserError("model.kind is encoder_decoder: build model.EncoderDecoder")
        super().__init__(config, config.layers, causal=config.kind == "decoder")
        self.compute_dtype = compute_dtype
        self.token_embedding = Embedding(config.vocab_size, config.width)
        self.head = Head(config)
        self.ahead = nn.ModuleList(Ahead(config, config.layers + step) for step in range(config.predict_ahead))
        initialize(self, config.layers, seed)

    @property
    def head_weight(self) -> Matrix:
        """The output matrix (V, D): its own, or the token embedding when they are tied."""
        return self.head.matrix(self.token_embedding)

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return next(self.parameters()).device

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
        received_BTD = None if self.section is None else self.section.x_BTD
        x_BTD = self.embed(ids_BT) if received_BTD is None else received_BTD
        return self.run(x_BTD, self.compute_dtype, cache, **given)

    def hidden_ahead(self, ids_BT: Tensor, x_BTD: Tensor, **marks: Tensor) -> list[Tensor]:
        """Hidden states for the further tokens, from those of the next ones: entry M - 1 is (B, T - M, D).

        Place t of entry M - 1 is for token t + 1 + M; ids, and marks such as positions_BT, are those of x.
        """
        hidden = []
        for steps, ahead in enumerate(self.ahead, 1):
            count = ids_BT.shape[1] - steps
            seen: Any = {name: mark_BT[:, :count] for name, mark_BT in marks.items()}
            scene = self._scene(Tokens(0, count, x_BTD.device, **seen), windowed=False)
            x_BTD = self._one_ahead(ahead, ids_BT[:, steps:], x_BTD[:, :-1], scene)
            hidden.append(x_BTD)
        return hidden

    def run_ahead(self, head: int, ids_BT: Tensor, x_BTD: Tensor, cache: Cache) -> Tensor:
        """hidden_ahead for the next T places of one head, from 0: (B, T, D), with a cache of one layer of its own.

        x: of the model or the head before; ids: the token that each of them predicted.
        """
        scene = self._scene(Tokens(cache.position, ids_BT.shape[1], x_BTD.device), windowed=False)
        x_BTD = self._one_ahead(self.ahead[head], ids_BT, x_BTD, scene, cache.layer(0))
        cache.advance(ids_BT.shape[1])
        return x_BTD

    def _one_ahead(
        self, ahead: nn.Module, ids_BT: Tensor, x_BTD: Tensor, scene: Scene, cache: LayerCache | None = None
    ) -> Tensor:
        x_BTD = ahead(x_BTD, self.embed(ids_BT).to(x_BTD.dtype), scene, cache)
        return x_BTD if self.final_norm is None else self.final_norm(x_BTD)

    def embed(self, ids_BT: Tensor) -> Tensor:
        """What the first block is given of tokens, (B, T, D), but for positions."""
        x_BTD = self.token_embedding(ids_BT)
        return x_BTD if self.config.embedding_scale == 1 else x_BTD * self.config.embedding_scale

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """What mixtures of experts add to the loss, for the last pass in training: the mean over layers of each."""
        found: dict[str, list[Tensor]] = {}
        for mixture in mixtures(self) if self.training else ():
            for name, loss in mixture.losses.items():
                found.setdefault(name, []).append(loss)
        return {name: torch.stack(losses).mean() for name, losses in found.items()}

    def balance_experts(self) -> None:
        """Move the routers' biases towards an even load, where they have any; to be called after each step."""
        for mixture in mixtures(self):
            mixture.balance()

    def parameter_count(self, embeddings: bool = True, active: bool = False) -> int:
        """Number of parameters, tied ones once; without `embeddings`, the token and position tables don't count.

        active: of the experts, only as many as a token goes to.
        """
        return counts.parameter_count(self, self.config, embeddings, active)

    def flops_per_token(self) -> float:
        """Floating-point operations per token of a forward and backward pass at full context; see counts."""
        return counts.flops_per_token(self, self.config)
