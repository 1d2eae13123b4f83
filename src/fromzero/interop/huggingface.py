"""Model folders in the Hugging Face layout, written and read one tensor at a time.

A shape that a published family can express is written as that family, so other programs open it. Any other mix is
written under our own names with `model_type: fromzero`, which only fromzero opens. Weights are safetensors, nothing
else: a pickle is never read, and code in a folder is never run. A file is held against its config before room is made.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromzero.config import from_mapping
from fromzero.dataset.writing import copy_tokenizer
from fromzero.errors import UserError
from fromzero.files import to_plain, write_json
from fromzero.interop import heads as published
from fromzero.interop.adapters import below, load_adapters
from fromzero.interop.families import SUPPORTED, expressed
from fromzero.interop.names import Part, Plan, plan, shape_of
from fromzero.interop.quantized import CODES, description, put_stored
from fromzero.interop.translate import Family, Theirs
from fromzero.interop.weights import SHARD_BYTES, Weights, read_json, save_shards
from fromzero.model import ModelConfig, Transformer
from fromzero.model.adapters import adapters, merge_adapters, plain_state
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.heads import HeadConfig, HeadedTransformer
from fromzero.model.narrow import to_compute
from fromzero.model.quantized import quantized
from fromzero.model.rounding import round_model

Model = Transformer | EncoderDecoder
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OURS = "fromzero"

# Other names of a tensor that are found in files: of the bare model without its prefix, of a model of text inside of
# one of text and pictures, and of norms as TensorFlow called them.
_OTHER_NAMES = (
    (r"^(model\.)?language_model\.(model\.)?", "model."),
    (r"^(wte|wpe|h|ln_f|tokens_embed|positions_embed)\.", r"transformer.\1."),
    (r"^(embed_tokens|layers|norm)\.", r"model.\1."),
    (r"^(embeddings|encoder\.layer|pooler)\.", r"bert.\1."),
    (r"LayerNorm\.gamma$", "LayerNorm.weight"),
    (r"LayerNorm\.beta$", "LayerNorm.bias"),
)
# Tables that follow from the config, the part for pictures, and what T5 has but does not use.
_UNUSED = re.compile(
    r".*(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|\.position_ids|EncDecAttention\.relative_attention_bias\.weight)"
    r"|(model\.)?(vision_tower|multi_modal_projector)\..*|cls\.predictions\.decoder\.bias"
)
_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")
# The token embedding again.
_AGAIN = re.compile(r"(lm_head|cls\.predictions\.decoder|(en|de)coder\.embed_tokens)\.weight")


def save_model(
    model: Model,
    folder: Path,
    tokenizer_folder: Path,
    special: Mapping[str, int],
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Write config, weights, tokenizer files and generation settings into `folder`; returns the model_type.

    special: ids by role, 'bos' and 'eos', for programs that ask the config for them. dtype: of the weights in the file.
    """
    config, places = layout_of(model)
    state = model.state_dict()
    learned = dict(model.named_parameters())  # the rest stays as it is
    kinds = {name: dtype if (own := parts[0][0]) in learned else state[own].dtype for name, parts in places.items()}
    tensors = {n: torch.empty(shape_of(parts, state), dtype=kinds[n], device="meta") for n, parts in places.items()}
    save_shards(folder, tensors, lambda n: put_together(places[n], state, tensors[n].shape, kinds[n]), shard_bytes)
    named = next(name for name, known in DTYPES.items() if known == dtype)
    ids = {f"{role}_token_id": token for role, token in special.items()}
    # `torch_dtype` is the name of the same setting before transformers 5
    write_json(folder / "config.json", {**config, "dtype": named, "torch_dtype": named, **ids})
    write_json(folder / "generation_config.json", {**ids, "do_sample": True, "temperature": 0.8, "top_p": 0.95})
    copy_tokenizer(tokenizer_folder, folder)
    return str(config["model_type"])


def layout_of(model: Model) -> tuple[dict[str, Any], Plan]:
    """The config.json and the tensors of the family that can express a model, or else of our own layout."""
    names = list(model.state_dict())
    heads = model.heads if isinstance(model, HeadedTransformer) else HeadConfig()
    few_bits = description(model)
    if not few_bits and (found := expressed(model.config)):
        family, theirs = found
        more = published.architecture_of(heads, model.config.head_bias, theirs["architectures"][0])
        places = plan(names, model.config, family.model_type)
        if places is not None and more is not None:
            theirs |= more
            if theirs["architectures"] == ["BertModel"]:  # is published without the prefix of what has heads
                places = {name.removeprefix("bert."): parts for name, parts in places.items()}
            return theirs, places
    places = plan(names, model.config, OURS)
    assert places is not None
    return {"model_type": OURS, OURS: to_plain(model.config), "heads": to_plain(heads), **few_bits}, places


def put_together(
    parts: list[tuple[str, Part]], state: Mapping[str, Tensor], shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    """One of their tensors, put together from ours."""
    if len(parts) == 1 and parts[0][1] == Part(parts[0][1].theirs):
        return state[parts[0][0]].to(dtype)
    made = torch.empty(shape, dtype=dtype)
    for name, part in parts:
        own, view = part.pair(state[name], made)
        view.copy_(own - part.shift if part.shift else own)
    return made


def load_model(
    folder: Path, compute_dtype: torch.dtype = torch.float32, dtype: torch.dtype | None = None
) -> Transformer:
    """Read a decoder: a model folder or a GGUF file, of a published family or of ours.

    Weights become fp32, and those in few bits stay so. dtype: to run a model and not to train it, compute in this, and
    keep matrices in it too; see model.narrow.

    Raises UserError for an unsupported architecture or setting, missing or misshapen tensors, unreadable files, and
    for a model that is no decoder.
    """
    model = load_any(folder, compute_dtype, dtype)
    if isinstance(model, EncoderDecoder) or model.config.kind != "decoder":
        kind = model.config.kind.replace("_", "-")
        raise UserError(f"{folder} holds an {kind}, which does not write text on its own; name a decoder")
    return model


def load_any(folder: Path, compute_dtype: torch.dtype = torch.float32, dtype: torch.dtype | None = None) -> Model:
    """Read a model of any kind; see load_model. Encoders have the heads that the file has.

    Adapters that are kept apart from their model are merged into it, unless it is in few bits.
    """
    folder = Path(folder)
    if base := below(folder):
        model = load_any(base.path, compute_dtype)
        round_model(model, base.few_bits)
        put_on(model, folder, dtype)
        return model
    stored = open_stored(folder)
    model = stored.empty(compute_dtype)
    if dtype is not None:
        to_compute(model, dtype)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for _, ours, theirs in stored.pairs(model.state_dict()):
            ours.copy_(theirs)
    return model


def put_on(model: Model, adapters: Path, dtype: torch.dtype | None = None) -> None:
    """Merge the adapters in a folder into a model, or leave them beside it if it is in few bits; dtype: as load_any."""
    load_adapters(model, adapters)
    if not next(quantized(model), None):
        merge_adapters(model)
    if dtype is not None:
        to_compute(model, dtype)


@dataclass(frozen=True)
class Stored:
    """A model in a file, held against its settings, and not read yet."""

    where: Path
    config: ModelConfig
    heads: HeadConfig
    pairs: Callable[[Mapping[str, Tensor]], Iterator[tuple[str, Tensor, Tensor]]]
    """For the state dict of such a model: name, (part of) ours, and what the file has for it, one at a time."""
    few_bits: Callable[[Model], None] = lambda model: None
    """Puts matrices in few bits where the file has such."""

    def empty(self, compute_dtype: torch.dtype = torch.float32) -> Model:
        """Such a model without numbers, on no device."""
        model = build(self.config, self.heads, compute_dtype, self.where)
        self.few_bits(model)
        return model


def open_stored(path: Path) -> Stored:
    """A model folder or a GGUF file, checked: settings and the names and shapes of tensors. See load_model.

    Where adapters are kept apart, the model that they belong to.
    """
    if base := below(path):
        return open_stored(base.path)
    if path.suffix == ".gguf" and path.is_file():
        from fromzero.interop.gguf import load_gguf

        config, tensors = load_gguf(path)
        return Stored(path, config, HeadConfig(), lambda state: ((name, state[name], t) for name, t in tensors))
    raw, weights = read_json(path / "config.json"), Weights(path)
    family = SUPPORTED.get(str(raw.get("model_type")))
    names = {(_usual(name) if family else name): name for name in weights.shapes}
    shapes = {usual: weights.shapes[name] for usual, name in names.items()}
    config, heads = _settings(raw, path / "config.json", family, shapes)
    layers = config.layers + (config.encoder_layers or 0) + config.predict_ahead
    fused = any("experts.gate_up_proj" in name for name in shapes) or not family
    experts = config.experts.count if config.experts and not fused else 0
    if max(layers, experts) > len(shapes):
        what = f"{layers} layers" + (f" and {experts} experts" if experts else "")
        raise UserError(f"{path}: the config says {what}, but there are {len(shapes)} tensors in the files")

    def few_bits(model: Model) -> None:
        if not family:
            put_stored(model, raw, shapes, path)

    few_bits(empty := build(config, heads, torch.float32, path))
    state = empty.state_dict()
    places = plan(list(state), config, family.model_type if family else OURS, shapes)
    assert places is not None, "the tables have a place for each tensor of a config that they read"
    check_tensors(places, shapes, state, config, path)
    embeddings = [name for name in weights.shapes if _AGAIN.fullmatch(name) and name not in places]

    def pairs(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
        own = {names[usual]: places[usual] for usual in places}
        for name, tensor in weights.read(own.__contains__):
            for ours, part in own[name]:
                mine, theirs = part.pair(state[ours], tensor)
                if ours.endswith(CODES) and mine.dtype != theirs.dtype:
                    raise UserError(f"{path}: tensor '{name}' holds {theirs.dtype}, where {mine.dtype} is expected")
                yield ours, mine, theirs.float() + part.shift if part.shift else theirs
        for name, tensor in weights.read(embeddings.__contains__):
            own_table = state["token_embedding.weight"]
            if not torch.equal(tensor.float().to(own_table.dtype), own_table):
                raise UserError(f"{path}: the config ties '{name}' to the token embedding, but the file has another")

    return Stored(path, config, heads, pairs, few_bits)


def unquantized(model: Model) -> Model:
    """The same model in plain matrices: what those in few bits stand for, with adapters merged."""
    if not next(quantized(model), None) and not next(adapters(model), None):
        return model
    heads = model.heads if isinstance(model, HeadedTransformer) else HeadConfig()
    plain = build(model.config, heads, model.compute_dtype, Path("the model")).to_empty(device="cpu")
    state = plain.state_dict()
    with torch.no_grad():
        for name, tensor in plain_state(model):
            state[name].copy_(tensor.view_as(state[name]))
    return plain


def _settings(
    raw: Mapping[str, Any], where: Path, family: Family | None, shapes: Mapping[str, list[int]]
) -> tuple[ModelConfig, HeadConfig]:
    if raw.get("quantization_config"):
        raise UserError(f"{where}: quantized weights (quantization_config) are not read; get the model as bfloat16")
    if family:
        heads = published.heads_in(shapes, raw)
        return family.read(Theirs(raw, str(where), shapes)), heads
    if raw.get("model_type") != OURS:
        known = ", ".join([*SUPPORTED, OURS])
        raise UserError(f"{where.parent} holds a '{raw.get('model_type')!s:.80}' model; supported are {known}")
    settings = [raw.get(OURS), raw.get("heads", {})]
    if not all(isinstance(group, dict) for group in settings):
        raise UserError(f"{where}: '{OURS}' and 'heads' should be objects with settings")
    return from_mapping(ModelConfig, settings[0], str(where)), from_mapping(HeadConfig, settings[1], str(where))


def build(config: ModelConfig, heads: HeadConfig, compute_dtype: torch.dtype, where: Path) -> Model:
    """A model without numbers, on no device."""
    try:
        with torch.device("meta"):
            if config.kind == "encoder_decoder":
                return EncoderDecoder(config, compute_dtype=compute_dtype)
            if heads == HeadConfig():
                return Transformer(config, compute_dtype=compute_dtype)
            return HeadedTransformer(config, heads, compute_dtype=compute_dtype)
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where}: the sizes in the config are beyond every machine ({reason})") from None


def _usual(name: str) -> str:
    for pattern, usual in _OTHER_NAMES:
        name = re.sub(pattern, usual, name)
    return name


def check_tensors(
    places: Plan, shapes: Mapping[str, list[int]], state: Mapping[str, Tensor], config: ModelConfig, where: Path
) -> None:
    """Raise UserError unless the file has just the tensors that its settings call for, each of the right shape."""
    for name, parts in places.items():
        if name not in shapes:
            raise UserError(f"{where}: the weights have no tensor '{name}', which this config needs")
        theirs = torch.empty(shapes[name], device="meta")
        if not all(_fits(part, state[ours], theirs) for ours, part in parts):
            found, expected = tuple(shapes[name]), tuple(shape_of(parts, state))
            raise UserError(f"{where}: tensor '{name}' has shape {found}, but the config says {expected}")
    for name in (name for name in shapes if name not in places):
        further = (layer := _LAYER.match(name)) and int(layer[1]) >= config.layers and not config.predict_ahead
        if not (further or _UNUSED.fullmatch(name) or _AGAIN.fullmatch(name)):
            raise UserError(f"{where}: tensor '{name}' has no place in a model of this config")


def _fits(part: Part, ours: Tensor, theirs: Tensor) -> bool:
    try:
        mine, yours = part.pair(ours, theirs)
    except (RuntimeError, IndexError, ValueError):
        return False
    return mine.shape == yours.shape
