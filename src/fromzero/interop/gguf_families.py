"""Which of llama.cpp's architectures is which of our shapes: settings and tensors, by their names in GGUF files."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.model import ModelConfig
from fromzero.model.config import RopeScaling
from fromzero.model.positions import attention_factor, scaled_frequencies

# What each architecture has in common; the settings in _KEYS are free, all others have their defaults.
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"qkv_bias": False},
    "qwen2": {"qkv_bias": True, "head_width": None},
    "qwen3": {"qkv_bias": False, "qk_norm": "head"},
    "gpt2": {
        "qkv_bias": True, "bias": True, "positions": "learned", "norm": "layer", "activation": "gelu_tanh",
        "head_width": None, "kv_heads": None, "rope_base": 10000.0, "rope_scaling": None,
    },
}  # fmt: skip
_KEYS = {
    "context": "context_length",
    "layers": "block_count",
    "width": "embedding_length",
    "ffn_width": "feed_forward_length",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "head_width": "attention.key_length",
    "rope_base": "rope.freq_base",
}
_NEEDED = ("context", "layers", "width", "ffn_width", "heads")
_EPSILON = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}
FACTORS = "rope_freqs.weight"  # what rotary frequencies are divided by, where Llama 3 stretches them
_MOST = 1 << 31
# Ours -> theirs, and their dimensions: D width, C head, Q all query heads, K all key heads, F, V vocabulary, S context.
_TOP = {
    "token_embedding": ("token_embd", "VD"),
    "position_embedding": ("position_embd", "SD"),
    "final_norm": ("output_norm", "D"),
    "head": ("output", "VD"),
}
_BLOCK = {
    "attention_norm": ("attn_norm", "D"),
    "attention.query": ("attn_q", "QD"),
    "attention.key": ("attn_k", "KD"),
    "attention.value": ("attn_v", "KD"),
    "attention.query_norm": ("attn_q_norm", "C"),
    "attention.key_norm": ("attn_k_norm", "C"),
    "attention.output": ("attn_output", "DQ"),
    "feed_forward_norm": ("ffn_norm", "D"),
    "feed_forward.gate": ("ffn_gate", "FD"),
    "feed_forward.up": ("ffn_up", "FD"),
    "feed_forward.down": ("ffn_down", "DF"),
}


class Place(NamedTuple):
    """One of our tensors in one of theirs."""

    ours: str
    shape: tuple[int, ...]
    heads: int | None
    """Where rotary positions turn neighbouring rows there: the number of heads."""


def family_of(config: ModelConfig) -> str:
    """The architecture that a shape is. Raises UserError where llama.cpp has none, or none that is known here."""
    plain = _plain(config)
    free = {name: getattr(plain, name) for name in (*_KEYS, "norm_eps", "tied", "vocab_size", "rope_scaling")}
    for family, fixed in _FAMILIES.items():
        if plain == ModelConfig(**free | fixed) and (plain.rope_scaling is None or plain.rope_scaling.kind != "ntk"):
            return family
    raise UserError(
        f"GGUF has no architecture of this shape; {', '.join(_FAMILIES)} can be written, of which one has other "
        f"settings than {config.changed()}"
    )


def _plain(config: ModelConfig) -> ModelConfig:
    """The same shape, said in one way."""
    return replace(
        config,
        qkv_bias=config.attention_biased,
        kv_heads=None if config.kv_heads == config.heads else config.kv_heads,
        head_width=None if config.head_size * config.heads == config.width else config.head_width,
        dropout=0.0,
    )


def places(config: ModelConfig, family: str) -> dict[str, list[Place]]:
    """Their name -> our tensors in it, one above the other, for every tensor of a model of that shape."""
    found: dict[str, list[Place]] = {}
    turns = {"attention.query": config.heads, "attention.key": config.key_value_heads} if family == "llama" else {}
    sizes = {"D": config.width, "C": config.head_size, "F": config.ffn_size, "V": config.vocab_size}
    sizes |= {"Q": config.heads * config.head_size, "K": config.key_value_heads * config.head_size, "S": config.context}
    lines = [(f"blocks.{n}.", f"blk.{n}.", part) for n in range(config.layers) for part in _BLOCK.items()]
    for ours, theirs, (part, (name, dimensions)) in [*(("", "", part) for part in _TOP.items()), *lines]:
        if part in _absent(config):
            continue
        if family == "gpt2" and part in ("attention.query", "attention.key", "attention.value"):
            name = "attn_qkv"
        shape = tuple(sizes[letter] for letter in dimensions)
        found.setdefault(f"{theirs}{name}.weight", []).append(Place(f"{ours}{part}.weight", shape, turns.get(part)))
        if _biased(part, config):
            found.setdefault(f"{theirs}{name}.bias", []).append(Place(f"{ours}{part}.bias", shape[:1], turns.get(part)))
    return found


def _absent(config: ModelConfig) -> list[str]:
    there = {
        "head": not config.tied,
        "position_embedding": config.positions == "learned",
        "feed_forward.gate": config.gated,
        "attention.query_norm": config.qk_norm is not None,
        "attention.key_norm": config.qk_norm is not None,
    }
    return [part for part, is_there in there.items() if not is_there]


def _biased(part: str, config: ModelConfig) -> bool:
    if part in ("attention.query", "attention.key", "attention.value"):
        return config.attention_biased
    return config.bias and part not in ("token_embedding", "position_embedding", "head")


def ours_of(tensor: Tensor, parts: list[Place]) -> list[Tensor]:
    """Our tensors in one of theirs. A head's rows are in pairs there, and in two halves here."""
    return [
        x if part.heads is None else x.unflatten(0, (part.heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()
        for part, x in zip(parts, tensor.split([part.shape[0] for part in parts]), strict=True)
    ]


def theirs_of(tensors: list[Tensor], parts: list[Place]) -> Tensor:
    """The inverse of `ours_of`."""
    turned = [
        x if part.heads is None else x.unflatten(0, (part.heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        for part, x in zip(parts, tensors, strict=True)
    ]
    return torch.cat(turned)


def write_config(config: ModelConfig, family: str) -> dict[str, Any]:
    """The settings as a GGUF file's metadata has them."""
    found: dict[str, Any] = {name: getattr(config, ours) for ours, name in _KEYS.items()}
    found |= {_EPSILON[config.norm]: config.norm_eps, "attention.head_count_kv": config.key_value_heads}
    found |= {"feed_forward_length": config.ffn_size, "vocab_size": config.vocab_size}
    found |= dict.fromkeys(("attention.key_length", "attention.value_length"), config.head_size)
    if config.positions == "rotary":
        found["rope.dimension_count"] = config.head_size
    else:
        del found["rope.freq_base"]
    if config.rope_scaling is not None:
        found |= {f"rope.scaling.{name}": value for name, value in _write_scaling(config.rope_scaling).items()}
    return {"general.architecture": family} | {f"{family}.{name}": value for name, value in found.items()}


def _write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    found = {"type": scaling.kind, "factor": scaling.factor, "original_context_length": scaling.original_context}
    if scaling.kind == "llama3":  # the file holds the factors of all frequencies instead
        return {"original_context_length": scaling.original_context}
    if scaling.kind == "yarn":
        more = attention_factor(scaling) / attention_factor(replace(scaling, attention_factor=None))
        found |= {"attn_factor": more, "yarn_beta_fast": scaling.beta_fast, "yarn_beta_slow": scaling.beta_slow}
    return found


def read_config(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factors: np.ndarray | None
) -> tuple[ModelConfig, str]:
    """The shape of a model and its architecture; shapes: of its tensors; factors: of its rotary frequencies.

    Raises UserError for what is not known here, or can't be.
    """
    family = metadata.get("general.architecture")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise UserError(f"it holds a model of the architecture {family!r:.40}; {', '.join(_FAMILIES)} can be read")
    fixed = _FAMILIES[family]
    epsilon = _EPSILON[fixed.get("norm", "rms")]
    keys = {name: f"{family}.{key}" for name, key in (_KEYS | {"norm_eps": epsilon}).items()}
    found = {
        name: _number(metadata, key, float if name in ("rope_base", "norm_eps") else int)
        for name, key in keys.items()
        if name in (*_NEEDED, "norm_eps") or key in metadata
    }
    vocabulary = shapes.get("token_embd.weight", (0,))[0]
    scaling = _read_scaling(metadata, f"{family}.rope.scaling.", factors)
    more = {"vocab_size": vocabulary, "tied": "output.weight" not in shapes, "rope_scaling": scaling}
    config = _plain(ModelConfig(**fixed | found | more))
    for name in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        if metadata.get(f"{family}.{name}", config.head_size) != config.head_size:
            raise UserError(f"its {name} is not the width of a head, {config.head_size}, which is not supported")
    if factors is not None and not np.allclose(rope_factors(config), factors, rtol=1e-4):
        raise UserError(f"its {FACTORS} are not those of Llama 3.1 to 3.3, which are the only ones supported")
    return config, family


def _number(metadata: Mapping[str, Any], key: str, kind: type, default: float | None = None) -> Any:
    value = metadata.get(key, default)
    if type(value) not in (int, kind) or not 0 < value < _MOST:
        raise UserError(f"its {key} is {value!r:.40}; it should be a number above 0")
    return float(str(np.float32(value))) if kind is float else value  # what has the fewest digits was meant


def _read_scaling(metadata: Mapping[str, Any], prefix: str, factors: np.ndarray | None) -> RopeScaling | None:
    kind = metadata.get(f"{prefix}type", "none")
    context = _number(metadata, f"{prefix}original_context_length", int, RopeScaling.original_context)
    if factors is not None:
        return RopeScaling("llama3", float(str(factors.max())), context)
    if kind not in ("none", "linear", "yarn"):
        raise UserError(f"it stretches rotary positions in the way {kind!r:.40}, which is not supported")
    if kind == "none" or f"{prefix}factor" not in metadata:
        return None
    scaling = RopeScaling(kind, _number(metadata, f"{prefix}factor", float), context)
    if kind == "linear":
        return scaling
    slow, fast, more = (
        _number(metadata, f"{prefix}{name}", float, default)
        for name, default in (("yarn_beta_slow", 1.0), ("yarn_beta_fast", 32.0), ("attn_factor", 1.0))
    )
    given = None if more == 1 else round(more * attention_factor(scaling), 6)  # of fp32
    return replace(scaling, beta_slow=slow, beta_fast=fast, attention_factor=given)


def rope_factors(config: ModelConfig) -> np.ndarray:
    """What the scaling divides rotary frequencies by."""
    plain, scaled = (scaled_frequencies(config.head_size, config.rope_base, s) for s in (None, config.rope_scaling))
    return (plain / scaled).numpy().astype(np.float32)
