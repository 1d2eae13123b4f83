"""Whose tensor is called what: our state dict <-> the GPT-2 and Llama layouts of Hugging Face.

A family maps each of our tensors to a place in one of theirs: their name, and, where they keep several of ours in one
tensor, which part of it. GPT-2 stores its matrices transposed (in, out), because its layers were written as 1x1
convolutions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.model import ModelConfig

Tensors = dict[str, Tensor]

_LLAMA_BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.gate.weight": "mlp.gate_proj.weight",
    "feed_forward.up.weight": "mlp.up_proj.weight",
    "feed_forward.down.weight": "mlp.down_proj.weight",
}
_LLAMA_TOP = {
    "token_embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_GPT2_BLOCK = {
    "attention_norm": "ln_1",
    "attention.output": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}
_GPT2_TOP = {
    "token_embedding.weight": "transformer.wte.weight",
    "position_embedding.weight": "transformer.wpe.weight",
    "final_norm.weight": "transformer.ln_f.weight",
    "final_norm.bias": "transformer.ln_f.bias",
    "head.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class Place:
    """Where one of our tensors is in their layout."""

    name: str
    transposed: bool = False
    part: int | None = None
    """Which of three equal parts along their last dimension (GPT-2's fused query, key, value)."""


def family_of(config: ModelConfig) -> str | None:
    """'llama' or 'gpt2' when that published layout can hold this shape exactly, else None."""
    if (config.positions, config.norm, config.activation, config.bias) == ("rotary", "rms", "swiglu", False):
        return "llama"
    standard_heads = config.key_value_heads == config.heads and config.head_size * config.heads == config.width
    if (config.positions, config.norm, config.bias) == ("learned", "layer", True) and standard_heads:
        return "gpt2" if config.activation in ("gelu", "gelu_tanh", "relu") else None
    return None


def places(config: ModelConfig, family: str) -> dict[str, Place]:
    """Our name -> the place in the family's layout, for every tensor of a model of that shape."""
    found = {}
    top = _LLAMA_TOP if family == "llama" else _GPT2_TOP
    for ours, theirs in top.items():
        if ours != "head.weight" or not config.tied:
            found[ours] = Place(theirs)
    for layer in range(config.layers):
        block = _llama_block(layer) if family == "llama" else _gpt2_block(layer)
        found |= {f"blocks.{layer}.{ours}": place for ours, place in block.items()}
    return found


def _llama_block(layer: int) -> dict[str, Place]:
    return {ours: Place(f"model.layers.{layer}.{theirs}") for ours, theirs in _LLAMA_BLOCK.items()}


def _gpt2_block(layer: int) -> dict[str, Place]:
    found = {}
    for kind in ("weight", "bias"):
        for ours, theirs in _GPT2_BLOCK.items():
            matrix = kind == "weight" and "norm" not in ours
            found[f"{ours}.{kind}"] = Place(f"transformer.h.{layer}.{theirs}.{kind}", transposed=matrix)
        for part, ours in enumerate(("query", "key", "value")):
            name = f"transformer.h.{layer}.attn.c_attn.{kind}"
            found[f"attention.{ours}.{kind}"] = Place(name, kind == "weight", part)
    return found


def to_theirs(state: Mapping[str, Tensor], config: ModelConfig, family: str) -> Tensors:
    """Our state dict in the family's names and layout (fp32, contiguous)."""
    theirs: Tensors = {}
    parts: dict[str, list[Tensor]] = {}
    for ours, place in places(config, family).items():
        tensor = state[ours].t() if place.transposed else state[ours]
        if place.part is None:
            theirs[place.name] = tensor.contiguous()
        else:
            parts.setdefault(place.name, []).append(tensor)  # `places` lists them in order: query, key, value
    return theirs | {name: torch.cat(tensors, dim=-1).contiguous() for name, tensors in parts.items()}


def from_theirs(theirs: Mapping[str, Tensor], config: ModelConfig, family: str) -> Tensors:
    """The family's tensors in our names. Raises UserError that names the first tensor that is missing."""
    ours: Tensors = {}
    for name, place in places(config, family).items():
        if place.name not in theirs:
            raise UserError(f"the weights have no tensor '{place.name}', which a {family} model of this shape needs")
        tensor = theirs[place.name]
        if place.part is not None:
            tensor = tensor.chunk(3, dim=-1)[place.part]
        ours[name] = tensor.t() if place.transposed else tensor
    return ours
