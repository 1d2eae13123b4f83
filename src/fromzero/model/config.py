"""The shape of a Transformer: what tells GPT-2, Llama, BERT and DeepSeek apart is here, as settings, not as classes."""

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from fromzero.errors import UserError, nearest

Kind = Literal["decoder", "encoder", "encoder_decoder"]
Positions = Literal["rotary", "learned", "sinusoidal", "alibi", "relative", "none"]
Norm = Literal["rms", "layer"]
Placement = Literal["pre", "post", "output", "sandwich"]
Activation = Literal["swiglu", "geglu", "geglu_tanh", "gelu", "gelu_tanh", "relu", "relu_squared", "silu"]

# With a gate there are three matrices instead of two; two thirds of the width keep their number equal.
_GATED = ("swiglu", "geglu", "geglu_tanh")


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions reach past the context that a model was trained with."""

    kind: Literal["linear", "ntk", "yarn", "llama3"]
    """Positions divided (Chen 2023); a larger base; by wavelength with a ramp (YaRN, Peng 2023); as in Llama 3.1."""
    factor: float
    """How many times longer."""
    original_context: int = 8192
    """Context before scaling, tokens."""
    low_frequency: float = 1.0
    """llama3: wavelengths longer than original_context / this are divided by the factor."""
    high_frequency: float = 4.0
    """llama3: wavelengths shorter than original_context / this are kept."""
    beta_fast: float = 32.0
    """yarn: pairs that turn more often than this within original_context are kept."""
    beta_slow: float = 1.0
    """yarn: pairs that turn less often than this are divided by the factor."""
    attention_factor: float | None = None
    """yarn: multiplies cos and sin; null is 0.1 ln(factor) + 1."""


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, 2024, section 2.1): keys and values are made from one small vector."""

    kv_rank: int = 512
    """Size of that vector, which is what the cache holds."""
    query_rank: int | None = None
    """Size of the vector that queries are made from; null makes them directly."""
    nope_width: int = 128
    """Channels of a head without positions."""
    rope_width: int = 64
    """Channels of a head with rotary positions, whose keys all heads share."""
    value_width: int = 128
    """Channels of a head's value."""


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of the feed-forward layer."""

    count: int = 8
    """Routed experts (E)."""
    active: int = 2
    """Experts that each token goes to."""
    width: int | None = None
    """Hidden size of one expert; null means the model's ffn_width."""
    shared: int = 0
    """Hidden size of the expert that every token goes to, 0 for none."""
    shared_gate: bool = False
    """Whether the shared expert's output is multiplied by a sigmoid of the token (Qwen 2 MoE)."""
    router: Literal["softmax", "sigmoid"] = "softmax"
    """How scores are made of the router's logits (Mixtral; DeepSeek-V3)."""
    normalize: bool = True
    """Whether the weights of the chosen experts are divided by their sum."""
    scale: float = 1.0
    """Multiplies the weights of the chosen experts."""
    groups: int = 1
    """Experts are in so many groups (DeepSeek: the device that they are on) ..."""
    active_groups: int = 1
    """... of which a token's experts come from so many."""
    group_score: Literal["max", "top2"] = "max"
    """How good a group is: its best score (V2), or the sum of its two best (V3)."""
    balance: Literal["loss", "bias", "none"] = "loss"
    """What keeps experts equally busy: a loss (Fedus 2021, eq. 4), or a bias on the choice alone (Wang 2024)."""
    balance_weight: float = 0.01
    """Weight of that loss, or the step by which the bias moves after each batch."""
    z_weight: float = 0.0
    """Weight of the squared log-sum-exp of the router's logits (Zoph 2022, eq. 5)."""
    capacity: float | None = None
    """Most tokens of an expert, as a multiple of the equal share; what is over is passed by. null drops no token."""
    dense_layers: int = 0
    """The first layers, which keep a feed-forward layer (DeepSeek)."""

    def __post_init__(self) -> None:
        if not 1 <= self.active <= self.count:
            raise UserError(f"model.experts: {self.active} experts are active, of {self.count}; take 1 to {self.count}")
        if self.count % self.groups or not 1 <= self.active_groups <= self.groups:
            raise UserError(
                f"model.experts: {self.count} experts can't be in {self.groups} groups, {self.active_groups} active"
            )
        if self.active > self.count // self.groups * self.active_groups:
            raise UserError(
                f"model.experts: {self.active_groups} of {self.groups} groups have fewer than {self.active}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Transformer; the defaults are Llama's choices."""

    vocab_size: int = 0
    """Number of token ids; 0 takes it from the tokenizer."""
    context: int = 256
    """Longest sequence, tokens."""
    layers: int = 4
    """Number of blocks; of the decoder, where there is an encoder too."""
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
    """How tokens know where they are: rotary (Su 2021), learned vectors (GPT-2), sinusoidal vectors (Vaswani 2017),
    alibi (slopes, Press 2021), relative (learned biases by distance, T5), none."""
    norm: Norm = "rms"
    """RMSNorm (Zhang 2019) or LayerNorm (Ba 2016)."""
    activation: Activation = "swiglu"
    """Non-linearity of the feed-forward layer; swiglu, geglu and geglu_tanh are gated (Shazeer 2020)."""
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
    kind: Kind = "decoder"
    """decoder: each token sees those before it. encoder: all see all (BERT). encoder_decoder: both (T5)."""
    encoder_layers: int | None = None
    """encoder_decoder: blocks of the encoder; null means as many as layers."""
    token_types: int = 0
    """Kinds of segments with a learned vector each (BERT has 2)."""
    embedding_norm: bool = False
    """A norm after the embeddings (BERT)."""
    embedding_scale: float = 1.0
    """Multiplies token embeddings (sqrt(width) in the original Transformer and Gemma)."""
    norm_placement: Placement = "pre"
    """pre: x + f(norm(x)). post: norm(x + f(x)) (Vaswani 2017). output: x + norm(f(x)) (OLMo 2). sandwich: x +
    norm(f(norm(x))) (Gemma 2). All but post have a last norm."""
    qk_norm: Literal["head", "full"] | None = None
    """RMSNorm of queries and keys: of each head (Qwen 3, Gemma 3), or of all heads together (OLMo 2)."""
    qkv_bias: bool | None = None
    """Whether queries, keys and values have biases (Qwen 2.5 has); null means as `bias`."""
    attention_scale: float | None = None
    """Multiplies the scores; null is 1 / sqrt(head width). T5 has 1."""
    attention_softcap: float | None = None
    """Scores s become cap tanh(s / cap) (Gemma 2)."""
    logit_softcap: float | None = None
    """The same for logits."""
    logit_scale: float = 1.0
    """Multiplies logits (T5 v1.0: width ** -0.5)."""
    sinks: bool = False
    """A learned score for each head that takes its share of the softmax and gives nothing (GPT-OSS)."""
    window: int | None = None
    """Each token sees only so many tokens, itself among them (Mistral); null: all."""
    full_every: int = 0
    """Every so many layers, the last of them is without a window (Gemma 2: 2, Gemma 3: 6); 0: none is."""
    local_rope_base: float | None = None
    """Base of the rotary frequencies in layers with a window, which are not scaled (Gemma 3); null: as the others."""
    rope_scaling: RopeScaling | None = None
    """How rotary positions reach further."""
    relative_buckets: int = 32
    """relative: number of biases for each head."""
    relative_distance: int = 128
    """relative: from here on, all distances share a bias."""
    parallel: bool = False
    """Attention and feed-forward see the same normed x, and both are added (GPT-J, PaLM)."""
    latent: Latent | None = None
    """Latent attention in place of the grouped one."""
    experts: Experts | None = None
    """A mixture of experts in place of the feed-forward layer."""
    predict_ahead: int = 0
    """Further tokens that are predicted at each place, each by a block of its own (DeepSeek-V3)."""
    head_bias: bool = False
    """Whether the output layer has a bias (BERT)."""
    depth: int = 0
    """The one dial, for pretraining: with D > 0, D layers of width 64 D, and what goes with that size; settings that
    are not the default stay. Batch size, learning rate, weight decay and length of training follow."""

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise UserError(f"model.depth is {self.depth}; it must be at least 1, or 0 for none")
        for name in ("context", "layers", "width", "heads", "relative_buckets", "relative_distance"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("kv_heads", "head_width", "ffn_width", "encoder_layers", "window"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(
                    f"model.{name} is {getattr(self, name)}; it must be at least 1, or null for the default"
                )
        if not (self.norm_eps > 0 and self.rope_base > 0):
            raise UserError(f"model.norm_eps ({self.norm_eps}) and model.rope_base ({self.rope_base}) must be above 0")
        if self.head_width is None and self.width % self.heads and self.latent is None:
            raise UserError(
                f"model.heads ({self.heads}) does not divide model.width ({self.width}); change one, or set head_width"
            )
        if self.heads % self.key_value_heads:
            raise UserError(f"model.kv_heads ({self.kv_heads}) does not divide model.heads ({self.heads})")
        if self.positions == "rotary" and self.rope_width % 2:
            raise UserError(f"rotary positions turn pairs, so a head needs an even width, not {self.rope_width}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout is {self.dropout}; it must be at least 0 and below 1")
        plain = not (self.qk_norm or self.sinks or self.attention_softcap)
        if self.latent and not (plain and self.kind == "decoder" and self.positions == "rotary"):
            raise UserError("model.latent is for decoders with rotary positions; no qk_norm, sinks, attention_softcap")
        if self.experts and not self.gated:
            raise UserError(f"model.experts have a gate; choose one of {', '.join(_GATED)}, not {self.activation}")
        if self.parallel and self.norm_placement != "pre":
            raise UserError(f"model.parallel goes with norm_placement pre, not {self.norm_placement}")

    @property
    def key_value_heads(self) -> int:
        """Key and value heads, with the default filled in."""
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        """Width of one head's query and key, with the default filled in."""
        if self.latent:
            return self.latent.nope_width + self.latent.rope_width
        return self.head_width or self.width // self.heads

    @property
    def rope_width(self) -> int:
        """Channels of a head that rotary positions turn."""
        return self.latent.rope_width if self.latent else self.head_size

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

    @property
    def attention_biased(self) -> bool:
        """Whether queries, keys and values have biases, with the default filled in."""
        return self.bias if self.qkv_bias is None else self.qkv_bias

    @property
    def cache_shapes(self) -> tuple[tuple[int, int], ...]:
        """What a layer keeps of one token: (heads, width) of its keys and of its values, or of the latent vectors."""
        if self.latent:
            return ((1, self.latent.kv_rank), (1, self.latent.rope_width))
        return ((self.key_value_heads, self.head_size),) * 2

    def windowed(self, layer: int) -> bool:
        """Whether a layer sees a window only."""
        return self.window is not None and not (self.full_every and (layer + 1) % self.full_every == 0)

    def routed(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return self.experts is not None and layer >= self.experts.dense_layers

    def with_depth(self) -> "ModelConfig":
        """The same shape with what `depth` means filled in, where the settings are the defaults."""
        if not self.depth:
            return self
        kind = type(self)
        width = 64 * self.depth if self.width == kind.width else self.width
        head = 128 if width >= 1024 and width % 128 == 0 else 64  # Llama's; GPT-2's, so that small models have several
        heads = width // head if self.heads == kind.heads and width % head == 0 else self.heads
        layers = self.depth if self.layers == kind.layers else self.layers
        return replace(self, depth=0, layers=layers, width=width, heads=heads)

    def changed(self) -> dict[str, Any]:
        """The settings that are not the defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        """What makes a published shape of the defaults, for a tokenizer of one's own. Raises UserError."""
        from fromzero.model.presets import PRESETS

        if name not in PRESETS:
            raise UserError(f"there is no preset '{name}'{nearest(name, PRESETS)}")
        shape = PRESETS[name]
        return {f: asdict(v) if is_dataclass(v) else v for f, v in shape.changed().items() if f != "vocab_size"}  # type: ignore[arg-type]

    def with_vocab(self, vocab_size: int) -> "ModelConfig":
        """The same shape for a tokenizer of that size. Raises UserError if another size was asked for."""
        if self.vocab_size not in (0, vocab_size):
            raise UserError(
                f"model.vocab_size is {self.vocab_size}, but the tokenizer has {vocab_size} ids; set it to 0"
            )
        return replace(self, vocab_size=vocab_size)
