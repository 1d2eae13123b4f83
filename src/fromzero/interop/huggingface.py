"""Model folders in the Hugging Face layout, written and read.

A shape that Llama or GPT-2 can express is written as that architecture, so other programs open it. Any other mix is
written under our own names with `model_type: fromzero`, which only fromzero opens. Weights are safetensors, nothing
else: a pickle is never read, and code in a folder is never run.
"""

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fromzero.artifact import to_plain, write_json
from fromzero.config import from_mapping
from fromzero.dataset.writing import copy_tokenizer
from fromzero.errors import UserError
from fromzero.interop import names
from fromzero.model import ModelConfig, Transformer

MAX_CONFIG_BYTES = 1_000_000
_GPT2_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


def save_model(model: Transformer, folder: Path, tokenizer_folder: Path, special: Mapping[str, int]) -> str:
    """Write config, weights (fp32), tokenizer files and generation settings into `folder`; returns the model_type.

    special: ids by role, 'bos' and 'eos', for programs that ask the config for them.
    """
    family = names.family_of(model.config)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    tensors = names.to_theirs(state, model.config, family) if family else state
    save_tensors(tensors, folder / _WEIGHTS)
    ids = {f"{role}_token_id": token for role, token in special.items()}
    write_json(folder / "config.json", {**_their_config(model.config, family), **ids})
    write_json(folder / "generation_config.json", {**ids, "do_sample": True, "temperature": 0.8, "top_p": 0.95})
    copy_tokenizer(tokenizer_folder, folder)
    return family or "fromzero"


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors. Raises OSError, as every other write does, when the disk is full."""
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except SafetensorError as error:
        if "No space left" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error
        raise


def load_model(folder: Path, compute_dtype: torch.dtype = torch.float32) -> Transformer:
    """Read a model folder: a Llama or GPT-2 model of transformers, or one of ours. Weights become fp32.

    Raises UserError for an unsupported architecture or setting, missing or misshapen tensors, unreadable files.
    """
    folder = Path(folder)
    raw = _read_json(folder / "config.json")
    config, family = _our_config(raw, folder)
    tensors = _read_weights(folder)
    model = Transformer(config, compute_dtype=compute_dtype)
    state = names.from_theirs(_full_names(tensors, family), config, family) if family else tensors
    _check_shapes(model, state, folder)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model


def _their_config(config: ModelConfig, family: str | None) -> dict[str, Any]:
    common: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "dtype": "float32",
        "torch_dtype": "float32",  # the name of the same setting before transformers 5
    }
    if family == "llama":
        return common | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "max_position_embeddings": config.context,
            "num_hidden_layers": config.layers,
            "hidden_size": config.width,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.key_value_heads,
            "head_dim": config.head_size,
            "intermediate_size": config.ffn_size,
            "hidden_act": "silu",
            "rms_norm_eps": config.norm_eps,
            "rope_theta": config.rope_base,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
            "attention_bias": False,
            "mlp_bias": False,
        }
    if family == "gpt2":
        activations = {ours: theirs for theirs, ours in reversed(_GPT2_ACTIVATIONS.items())}
        return common | {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_positions": config.context,
            "n_layer": config.layers,
            "n_embd": config.width,
            "n_head": config.heads,
            "n_inner": config.ffn_size,
            "activation_function": activations[config.activation],
            "layer_norm_epsilon": config.norm_eps,
        }
    return common | {"model_type": "fromzero", "fromzero": to_plain(config)}


def _our_config(raw: Mapping[str, Any], folder: Path) -> tuple[ModelConfig, str | None]:
    kind = raw.get("model_type")
    try:
        if kind == "fromzero":
            return from_mapping(ModelConfig, raw["fromzero"], f"{folder}/config.json"), None
        if kind == "llama":
            return _from_llama(raw), "llama"
        if kind == "gpt2":
            return _from_gpt2(raw), "gpt2"
    except KeyError as missing:
        raise UserError(f"{folder}/config.json has no key {missing}, which a {kind} model needs") from None
    raise UserError(f"{folder} holds a '{kind}' model; supported are llama, gpt2 and fromzero")


def _from_llama(raw: Mapping[str, Any]) -> ModelConfig:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    _supported("rope type", rope.get("rope_type", rope.get("type", "default")), ("default",))
    _supported("hidden_act", raw.get("hidden_act", "silu"), ("silu",))
    _supported("attention_bias", bool(raw.get("attention_bias")), (False,))
    _supported("mlp_bias", bool(raw.get("mlp_bias")), (False,))
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        context=raw["max_position_embeddings"],
        layers=raw["num_hidden_layers"],
        width=raw["hidden_size"],
        heads=raw["num_attention_heads"],
        kv_heads=raw.get("num_key_value_heads"),
        head_width=raw.get("head_dim"),
        ffn_width=raw["intermediate_size"],
        tied=raw.get("tie_word_embeddings", False),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_base=rope.get("rope_theta", raw.get("rope_theta", 10000.0)),
    )


def _from_gpt2(raw: Mapping[str, Any]) -> ModelConfig:
    _supported("scale_attn_by_inverse_layer_idx", bool(raw.get("scale_attn_by_inverse_layer_idx")), (False,))
    _supported("scale_attn_weights", raw.get("scale_attn_weights", True), (True,))
    activation = raw.get("activation_function", "gelu_new")
    _supported("activation_function", activation, tuple(_GPT2_ACTIVATIONS))
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        context=raw["n_positions"],
        layers=raw["n_layer"],
        width=raw["n_embd"],
        heads=raw["n_head"],
        ffn_width=raw.get("n_inner"),
        positions="learned",
        norm="layer",
        activation=_GPT2_ACTIVATIONS[activation],  # type: ignore[arg-type]
        bias=True,
        tied=raw.get("tie_word_embeddings", True),
        norm_eps=raw.get("layer_norm_epsilon", 1e-5),
    )


def _supported(key: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise UserError(f"config.json: {key} = {value!r} is not supported; supported: {', '.join(map(repr, choices))}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; that is no model config")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name the folder of a model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object")
    return value


def _read_weights(folder: Path) -> dict[str, Tensor]:
    files = [folder / _WEIGHTS]
    if not files[0].exists() and (folder / _INDEX).exists():
        shards = sorted(set(_read_json(folder / _INDEX).get("weight_map", {}).values()))
        if any(Path(shard).name != shard for shard in shards):
            raise UserError(f"{folder / _INDEX} names files outside of the folder; it is refused")
        files = [folder / shard for shard in shards]
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: no such file; only safetensors weights are read, never pickles (.bin, .pt)")
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is not valid safetensors: {error}") from error
    return tensors


def _full_names(tensors: Mapping[str, Tensor], family: str | None) -> dict[str, Tensor]:
    """Checkpoints of the bare model lack the prefix: published GPT-2 weights say `h.0...`, not `transformer.h.0...`."""
    if family == "gpt2" and "wte.weight" in tensors:
        return {name if name == "lm_head.weight" else f"transformer.{name}": t for name, t in tensors.items()}
    return dict(tensors)


def _check_shapes(model: Transformer, state: Mapping[str, Tensor], folder: Path) -> None:
    for name, wanted in model.state_dict().items():
        if name not in state:
            raise UserError(f"{folder}: the weights have no tensor '{name}', which this config needs")
        if state[name].shape != wanted.shape:
            found, expected = tuple(state[name].shape), tuple(wanted.shape)
            raise UserError(f"{folder}: tensor '{name}' has shape {found}, but the config says {expected}")
