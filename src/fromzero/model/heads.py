"""What a Transformer does beside the next token: hidden tokens, pairs of sentences, classes of texts or tokens."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromzero.model.block import Cache
from fromzero.model.config import ModelConfig
from fromzero.model.initialize import initialize
from fromzero.model.layers import ACTIVATIONS, Linear, Norm
from fromzero.model.transformer import Transformer

Pooling = Literal["first", "mean", "last"]


@dataclass(frozen=True)
class HeadConfig:
    """Which heads a model has."""

    masked: bool = False
    """A layer and a norm before the output layer, for the ids of hidden tokens (BERT)."""
    pooling: Pooling = "first"
    """The vector of a text: that of its first token (BERT's [CLS]), of its last (GPT), or the mean of all."""
    pooler: bool = False
    """A layer with tanh on that vector (BERT)."""
    classes: int = 0
    """Classes to tell apart, 0 for none; 2 for next sentence and sentence order (0: as it was)."""
    per_token: bool = False
    """Whether each token has a class, or the text has one."""
    labels: tuple[str, ...] = ()
    """Names of the classes."""
    bias: bool = True
    """Whether the layer for classes has a bias."""


class Outputs(NamedTuple):
    """What the heads make of one pass."""

    hidden_BTD: Tensor
    """What the output layer is applied to."""
    pooled_BD: Tensor
    """A vector for each text."""
    classes: Tensor | None
    """Logits of classes, (B, classes) or (B, T, classes)."""


class MaskedHead(nn.Module):
    """norm(activation(dense(x))), before the output layer (Devlin et al. 2019); (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.dense, self.norm = Linear(config.width, config.width, bias=True), Norm(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(x_BTD)))


class HeadedTransformer(Transformer):
    """A Transformer with heads; without any it is the same."""

    def __init__(
        self, config: ModelConfig, heads: HeadConfig, seed: int = 0, compute_dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(config, seed, compute_dtype)
        self.heads = heads
        self.masked = MaskedHead(config) if heads.masked else None
        self.pooler = Linear(config.width, config.width, bias=True) if heads.pooler else None
        self.classifier = Linear(config.width, heads.classes, bias=heads.bias) if heads.classes else None
        initialize(self.added(), config.layers, seed + 1)  # or heads would have the numbers of the first matrices

    def added(self) -> nn.ModuleDict:
        """The heads alone."""
        names = ("masked", "pooler", "classifier")
        return nn.ModuleDict({name: head for name in names if (head := getattr(self, name)) is not None})

    @classmethod
    def on(cls, model: Transformer, heads: HeadConfig, seed: int = 0) -> "HeadedTransformer":
        """New heads on a trained model, whose parts (with adapters, or in few bits, as they are) both then share."""
        with torch.device("meta"):
            headed = cls(model.config, heads, seed, model.compute_dtype)
        added = [name for name, _ in headed.added().named_children()]
        for name, part in model.named_children():
            if name in headed._modules and name not in added:
                headed.add_module(name, part)
        initialize(headed.added().to_empty(device=model.token_embedding.weight.device), model.config.layers, seed + 1)
        return headed

    def hidden(self, ids_BT: Tensor, cache: Cache | None = None, **given: Any) -> Tensor:
        """What the output layer is applied to, so that losses and logits are as those of every Transformer."""
        x_BTD = super().hidden(ids_BT, cache, **given)
        last = self.section is None or self.section.last
        return self.masked(x_BTD) if self.masked is not None and last else x_BTD

    def outputs(self, ids_BT: Tensor, **given: Any) -> Outputs:
        """Everything at once; see Transformer.forward for what may be given."""
        x_BTD = super().hidden(ids_BT, **given)
        x_BD = pool(x_BTD, given.get("keep_BT"), self.heads.pooling)
        x_BD = x_BD if self.pooler is None else torch.tanh(self.pooler(x_BD))
        known = F.dropout(x_BTD if self.heads.per_token else x_BD, self.config.dropout, self.training)
        classes = None if self.classifier is None else self.classifier(known)
        return Outputs(x_BTD if self.masked is None else self.masked(x_BTD), x_BD, classes)


def pool(x_BTD: Tensor, keep_BT: Tensor | None, how: Pooling) -> Tensor:
    """The vector of each text (B, D), padding on either side passed over; keep_BT None: there is none."""
    keep_BT = x_BTD.new_ones(x_BTD.shape[:2], dtype=torch.bool) if keep_BT is None else keep_BT
    if how == "mean":
        weights_BT1 = keep_BT[..., None].to(x_BTD.dtype)
        return (x_BTD * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1)
    places_T = torch.arange(keep_BT.shape[1], device=keep_BT.device)
    place_B = keep_BT.int().argmax(1) if how == "first" else (keep_BT * places_T).argmax(1)
    return x_BTD[torch.arange(len(x_BTD), device=x_BTD.device), place_B]
