"""The shape of a Transformer: what distinguishes GPT-2 from Llama is here, as settings and not as classes."""

from dataclasses import dataclass, replace
from typing import Literal

from fromzero.errors import UserError

Positions = Literal["rotary", "learned"]
Norm = Literal["rms", "layer"]
Activation = Literal["swiglu", "geglu", "gelu", "gelu_tanh", "relu", "relu_squared"]

# With a gate there are three matrices instead of two; two thirds of the width keep their number equal.
_GATED = ("swiglu", "geglu")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder-only Transformer; the defaults are Llama's choices."""

    vocab_size: int = 0
    """Number of token ids; 0 takes it from the tokenizer."""
    context: int = 256
    """Longest sequence, tokens."""
    layers: int = 4
    """Number of blocks."""
    width: int = 256
    """Size of the residual stream (D)."""
    heads: int = 4
    """Attention heads (H)."""
    kv_heads: int | None = None
    """Key and value heads (K); fewer than heads is grouped-query attention, 1 is multi-query; null means as heads."""
    head_width: int | None = None
    """Size of one head; null means width / heads."""
    ffn_width: int | None = None
    """Hidden size of the feed-forward layer; null means 4 x width, or 8/3 x width rounded up to 32 with a gate."""
    positions: Positions = "rotary"
    """How tokens know where they are: rotary (Su 2021) or learned vectors (GPT-2)."""
    norm: Norm = "rms"
    """RMSNorm (Zhang 2019) or LayerNorm (Ba 2016), before each sublayer and at the end."""
    activation: Activation = "swiglu"
    """Non-linearity of the feed-forward layer; swiglu and geglu are gated (Shazeer 2020)."""
    bias: bool = False
    """Whether linear layers and LayerNorms have biases (GPT-2 does, Llama doesn't)."""
    tied: bool = True
    """Whether the output layer is the token embedding (Press and Wolf 2017); saves vocab_size x width parameters."""
    norm_eps: float = 1e-5
    """Added under the square root of a norm."""
    rope_base: float = 10000.0
    """Base of the rotary frequencies; larger reaches further."""
    dropout: float = 0.0
    """Share of activations dropped in training, after each sublayer and the embedding."""

    def __post_init__(self) -> None:
        for name in ("context", "layers", "width", "heads"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("kv_heads", "head_width", "ffn_width"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(
                    f"model.{name} is {getattr(self, name)}; it must be at least 1, or null for the default"
                )
        if not (self.norm_eps > 0 and self.rope_base > 0):
            raise UserError(f"model.norm_eps ({self.norm_eps}) and model.rope_base ({self.rope_base}) must be above 0")
        if self.head_width is None and self.width % self.heads:
            raise UserError(
                f"model.heads ({self.heads}) does not divide model.width ({self.width}); change one, or set head_width"
            )
        if self.heads % self.key_value_heads:
            raise UserError(f"model.kv_heads ({self.kv_heads}) does not divide model.heads ({self.heads})")
        if self.positions == "rotary" and self.head_size % 2:
            raise UserError(f"rotary positions turn pairs, so a head needs an even width, not {self.head_size}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout is {self.dropout}; it must be at least 0 and below 1")

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, with the default filled in."""
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        """Width of one head, with the default filled in."""
        return self.head_width or self.width // self.heads

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a gate."""
        return self.activation in _GATED

    @property
    def ffn_size(self) -> int:
        """Hidden size of the feed-forward layer, with the default filled in."""
        if self.ffn_width:
            return self.ffn_width
        return -(-8 * self.width // 3 // 32) * 32 if self.gated else 4 * self.width

    def with_vocab(self, vocab_size: int) -> "ModelConfig":
        """The same shape for a tokenizer of that size. Raises UserError if another size was asked for."""
        if self.vocab_size not in (0, vocab_size):
            raise UserError(
                f"model.vocab_size is {self.vocab_size}, but the tokenizer has {vocab_size} ids; set it to 0"
            )
        return replace(self, vocab_size=vocab_size)
