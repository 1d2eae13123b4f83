"""Adapters in folders of their own, as PEFT has them, and models that are another one and adapters.

`adapter_config.json` and `adapter_model.safetensors`, with the names of the published family: PEFT and vLLM open them
on the base model, and theirs are opened here. Where a family keeps several of our matrices in one (GPT-2), or the shape
is nobody's but ours, the names are ours and the config says `"layout": "fromzero"`.

A model whose adapters are kept apart is a folder with `adapters/`, the tokenizer, and `base.json`: which model is to be
opened first, what its digest is, and in how many bits.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor

from fromzero.artifact import digest_source
from fromzero.console import say
from fromzero.dataset.writing import copy_tokenizer
from fromzero.errors import UserError
from fromzero.files import write_json
from fromzero.interop.download import RECORD, find_model
from fromzero.interop.families import expressed
from fromzero.interop.names import Part, plan
from fromzero.interop.weights import Weights, read_json, save_tensors
from fromzero.model.adapters import AdapterConfig, adapters, put_adapters
from fromzero.model.config import ModelConfig
from fromzero.model.layers import Linear
from fromzero.model.quantized import QuantizedLinear
from fromzero.model.rounding import FewBits

FOLDER, BASE = "adapters", "base.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OURS = "fromzero"
_PREFIX = "base_model.model."
_PARTS = {"lora_A.weight": "down.weight", "lora_B.weight": "up.weight", "lora_magnitude_vector": "magnitude"}
# Settings that make something else of the same tensors.
_REFUSED = "rank_pattern alpha_pattern layer_replication use_qalora alora_invocation_tokens arrow_config use_bdlora"
_INITS = ("gaussian", "eva", "orthogonal")  # of those with a name, the ones that leave the base as it is
Layers = dict[str, dict[str, Tensor]]
"""Name of a linear layer -> its adapter: down.weight (rank, in), up.weight (out, rank); DoRA: magnitude (out)."""


def save_adapters(model: Any, folder: Path, config: AdapterConfig, base: str) -> str:
    """Write a model's adapters into `folder`; whose names they have: a model_type, or fromzero.

    base: what PEFT is to open them on, a path or a name.
    """
    learned = dict(adapters(model))
    model_type, theirs = _family(model.config, list(learned))
    theirs = theirs if model_type != OURS else {name: name for name in learned}
    tensors = {}
    for name, module in learned.items():
        state = module.state_dict()
        for leaf, own in _PARTS.items():
            if own in state:
                tensors[f"{_PREFIX}{theirs[name]}.{leaf}"] = state[own].float()
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, folder / WEIGHTS)
    modules = sorted({".".join(name.split(".")[-2:]) for name in theirs.values()})
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True}
    said |= {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout, "target_modules": modules}
    said |= {"use_rslora": config.rank_stabilized, "use_dora": config.decomposed, "bias": "none"}
    write_json(folder / CONFIG, {**said, **({"layout": OURS} if model_type == OURS else {})})
    return model_type


def _family(config: ModelConfig, layers: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The family that has just one matrix for each of these layers, and its names of those for which it has."""
    model_type = found[0].model_type if (found := expressed(config)) else OURS
    places = plan([f"{name}.weight" for name in layers], config, model_type) or {}
    alike = {parts[0][0]: theirs for theirs, parts in places.items() if [p for _, p in parts] == [Part(theirs)]}
    names = {ours.removesuffix(".weight"): theirs.removesuffix(".weight") for ours, theirs in alike.items()}
    return (model_type if len(names) == len(layers) else OURS), names


def read_adapters(model: Any, folder: Path) -> tuple[AdapterConfig, Layers]:
    """The adapters in a folder of PEFT's layout for a model without any: shapes are held against it.

    folder: theirs, or that of a model which adapters are kept apart from, with them in it.
    Raises UserError for what is missing or damaged, does not fit, or can do more than LoRA and DoRA on linear layers.
    """
    folder = inner if (inner := folder / FOLDER).is_dir() else folder
    said = read_json(folder / CONFIG)
    config = _settings(said, folder / CONFIG)
    kinds = (Linear, QuantizedLinear)
    shapes = {name: _shape(m) for name, m in model.named_modules() if isinstance(m, kinds)}
    names = {name: name for name in shapes}
    if said.get("layout") != OURS:
        names = {theirs: ours for ours, theirs in _family(model.config, list(shapes))[1].items()}
    stored, layers = Weights(folder, WEIGHTS), Layers()
    for name, tensor in stored.read(lambda name: True):
        theirs, leaf = _split(name, folder)
        if (layer := names.get(theirs)) is None:
            raise UserError(
                f"{folder}: '{theirs}' is no linear layer of this model that can have an adapter of its own"
            )
        (outputs, inputs), rank = shapes[layer], config.rank
        expected = {"down.weight": [rank, inputs], "up.weight": [outputs, rank], "magnitude": [outputs]}[leaf]
        if stored.shapes[name] != expected:
            raise UserError(f"{folder}: tensor '{name}' has shape {stored.shapes[name]}, but {expected} is expected")
        layers.setdefault(layer, {})[leaf] = tensor.float()
    needed = {"down.weight", "up.weight"} | ({"magnitude"} if config.decomposed else set())
    if not layers or any(parts.keys() != needed for parts in layers.values()):
        raise UserError(f"{folder}: each adapter should have {', '.join(sorted(needed))}; some parts are missing")
    return config, layers


def load_adapters(model: Any, folder: Path) -> list[str]:
    """Put the adapters in a folder on a model without any, in place, which freezes it; the names of their layers.

    Raises UserError, as `read_adapters`.
    """
    config, layers = read_adapters(model, folder)
    put_adapters(model, list(layers), config)
    for name, parts in layers.items():
        model.get_submodule(name).load_state_dict(parts, strict=False)
    return list(layers)


def _settings(said: dict[str, Any], where: Path) -> AdapterConfig:
    if said.get("peft_type") != "LORA":
        raise UserError(f"{where}: adapters of the kind {said.get('peft_type')!s:.40} are not read, only LORA")
    if refused := [name for name in _REFUSED.split() if said.get(name)]:
        raise UserError(f"{where}: {refused[0]} is not supported; train or export the adapters without it")
    if isinstance(init := said.get("init_lora_weights"), str) and init.lower() not in _INITS:
        raise UserError(f"{where}: init_lora_weights {init:.40} changes the base; convert these when they are saved")
    rank, alpha = said.get("r"), said.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float):
        raise UserError(f"{where}: r and lora_alpha should be numbers, and are {rank!s:.40} and {alpha!s:.40}")
    stabilized, decomposed = bool(said.get("use_rslora")), bool(said.get("use_dora"))
    return AdapterConfig(rank, float(alpha), rank_stabilized=stabilized, decomposed=decomposed)


def _split(name: str, folder: Path) -> tuple[str, str]:
    """The layer and the part of an adapter that a tensor is."""
    for leaf, own in _PARTS.items():
        if name.startswith(_PREFIX) and name.endswith(f".{leaf}"):
            return name.removeprefix(_PREFIX).removesuffix(f".{leaf}"), own
    raise UserError(f"{folder}: tensor '{name:.120}' is no part of LoRA or DoRA on a linear layer")


def _shape(module: Linear | QuantizedLinear) -> tuple[int, int]:
    return module.packed.shape if isinstance(module, QuantizedLinear) else (module.out_features, module.in_features)


@dataclass(frozen=True)
class Below:
    """The model that adapters are kept apart from."""

    path: Path
    few_bits: FewBits
    """Into which it is rounded when it is opened."""


def save_apart(model: Any, folder: Path, config: AdapterConfig, base: Path, few_bits: FewBits) -> str:
    """Write adapters, tokenizer and what they belong to into `folder`, but not the base; see save_adapters.

    base: a downloaded model is named; a path is written relative to the folder, so both can be moved together.
    """
    name = next((str(read_json(file)["name"]) for file in (base / RECORD, base.parent / RECORD) if file.is_file()), "")
    beside = name or os.path.relpath(base.resolve(), folder.resolve())
    write_json(folder / BASE, {"model": beside, "digest": digest_source(base), "quantize": few_bits})
    copy_tokenizer(base, folder)
    return save_adapters(model, folder / FOLDER, config, name or str(base.resolve()))


def check_base(folder: Path, base: Path) -> None:
    """Hold the model at `base` against the one that the adapters in a folder were made on, where that is known.

    Raises UserError when it is another one; says so when it was in few bits.
    """
    known = (folder / BASE, folder.parent / BASE)[: 1 + (folder.name == FOLDER)]
    for said in (read_json(file) for file in known if file.is_file()):
        if said.get("digest") != digest_source(find_model(base)):
            raise UserError(f"the adapters in {folder} were made on another model; open that one with them")
        if (bits := said.get("quantize")) != "none":
            say(f"warning: the adapters in {folder} were made on the model in {bits!s:.10}; here it is as it was")


def below(folder: Path) -> Below | None:
    """What a folder's adapters belong to, checked; None where it is a model of its own.

    Raises UserError when that model is missing or is not what it was.
    """
    if not (file := folder / BASE).is_file():
        return None
    said = read_json(file)
    name, few_bits = str(said.get("model")), str(said.get("quantize"))
    if few_bits not in get_args(FewBits):
        raise UserError(f"{file}: quantize is {few_bits:.40}; known are {', '.join(get_args(FewBits))}")
    beside = folder / name
    path = find_model(beside if beside.exists() else Path(name))
    known = path.suffix == ".gguf" or any((path / file).is_file() for file in ("config.json", BASE))
    if not known or digest_source(path) != said.get("digest"):
        raise UserError(f"{path} is not the model that the adapters in {folder} were made on; put that one there")
    return Below(path, cast(FewBits, few_bits))
