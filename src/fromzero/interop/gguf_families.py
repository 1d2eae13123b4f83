"""llama.cpp's architectures: which of our settings is where in a GGUF file's metadata (without their prefix there)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fromzero.errors import UserError
from fromzero.interop.translate import Family, Key, Rule, Theirs, whole
from fromzero.model.config import ModelConfig, RopeScaling
from fromzero.model.positions import attention_factor, scaled_frequencies

FACTORS = "rope_freqs.weight"
"""A tensor: what rotary frequencies are divided by, where Llama 3 stretches them. Here it is among the settings."""

_SIZES = whole("layers=block_count width=embedding_length heads=attention.head_count ffn_width=feed_forward_length")
_KEYS = {**_SIZES, **whole("vocab_size=vocab_size context=context_length")}
_LLAMA = {
    **_KEYS,
    **whole("kv_heads=attention.head_count_kv", None),
    "rope_base": Key("rope.freq_base", float, 1e4),
    "norm_eps": Key("attention.layer_norm_rms_epsilon", float),
}
_WIDTHS = "attention.key_length attention.value_length rope.dimension_count"
_GPT2 = _KEYS | {"norm_eps": Key("attention.layer_norm_epsilon", float)}
Ours = Mapping[str, Any]
_LEARNED = {"positions": "learned", "norm": "layer", "bias": True, "activation": "gelu_tanh"}


def _width(ours: Ours) -> int:
    return int(ours.get("head_width") or ours["width"] // ours["heads"])


def _heads_read(theirs: Theirs, ours: Ours) -> dict[str, Any]:
    for key in _WIDTHS.split():
        theirs.only(key, _width(ours))
    return {"tied": "lm_head.weight" not in theirs.tensors}


def _scaling_read(theirs: Theirs, ours: Ours) -> dict[str, Any]:
    kind = theirs.only("rope.scaling.type", "none", "linear", "yarn")
    context = theirs.get("rope.scaling.original_context_length", int, RopeScaling.original_context)
    factors = theirs.raw.get(FACTORS)
    if factors is not None:
        scaling = RopeScaling("llama3", float(str(factors.max(initial=1))), context)
        there = _factors(_width(ours), ours["rope_base"], scaling)
        if factors.shape != there.shape or not np.allclose(factors, there, 1e-4):
            raise UserError(f"{theirs.where}: {FACTORS} are not as in Llama 3.1 to 3.3, which are supported")
        return {"rope_scaling": scaling}
    if kind == "none" or theirs.raw.get("rope.scaling.factor") is None:
        return {}
    numbers = {"factor": 1.0, "attn_factor": 1.0, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0}
    factor, more, fast, slow = (theirs.get(f"rope.scaling.{name}", float, n) for name, n in numbers.items())
    if min(factor, more, fast, slow) <= 0:
        raise UserError(f"{theirs.where}: the numbers below rope.scaling should be above 0")
    scaling = RopeScaling(kind, factor, context, beta_fast=fast, beta_slow=slow)
    attention = None if more == 1 else round(more * attention_factor(scaling), 6)  # of fp32
    return {"rope_scaling": replace(scaling, attention_factor=attention)}


def _scaling_write(config: ModelConfig) -> dict[str, Any]:
    """Raises KeyError for a kind that llama.cpp does not have."""
    scaling = config.rope_scaling
    if scaling is None:
        return {}
    found: dict[str, Any] = {"rope.scaling.original_context_length": scaling.original_context}
    if scaling.kind == "llama3":
        return found | {FACTORS: _factors(config.head_size, config.rope_base, scaling)}
    more = attention_factor(scaling) / attention_factor(replace(scaling, attention_factor=None))
    rest = {"factor": scaling.factor, "attn_factor": more}
    rest |= {"yarn_beta_fast": scaling.beta_fast, "yarn_beta_slow": scaling.beta_slow}
    found["rope.scaling.type"] = {"linear": "linear", "yarn": "yarn"}[scaling.kind]
    return found | {f"rope.scaling.{name}": value for name, value in rest.items()}


def _factors(width: int, base: float, scaling: RopeScaling) -> np.ndarray:
    plain, scaled = (scaled_frequencies(width, base, kind) for kind in (None, scaling))
    return (plain / scaled).numpy().astype(np.float32)


_HEADS = Rule(_heads_read, lambda _: {})
_SCALING = Rule(_scaling_read, _scaling_write)
_ROTARY = (_HEADS, _SCALING)
_WIDE = _LLAMA | {"head_width": Key(_WIDTHS, int, None)}
ARCHITECTURES = {
    "llama": Family("gguf.llama", "", _WIDE, {"qkv_bias": False}, {}, _ROTARY),
    "qwen2": Family("gguf.qwen2", "", _LLAMA, {"qkv_bias": True}, {}, _ROTARY),
    "qwen3": Family("gguf.qwen3", "", _WIDE, {"qk_norm": "head"}, {}, _ROTARY),
    "gpt2": Family("gguf.gpt2", "", _GPT2, _LEARNED, {}, (_HEADS,)),
}
