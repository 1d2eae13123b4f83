"""Models in GGUF files, llama.cpp's format: read and written one tensor at a time.

A file says how many layers there are, how wide, and where each tensor is. All of that is held against what is really in
the file before room is made for anything, so a lie costs nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.interop.gguf_blocks import KINDS, dequantise, quantise
from fromzero.interop.gguf_families import ARCHITECTURES, FACTORS
from fromzero.interop.gguf_vocabulary import write_tokenizer
from fromzero.interop.gguf_writer import ALIGNMENT, write_gguf
from fromzero.interop.huggingface import build, check_tensors, put_together
from fromzero.interop.names import plan, shape_of
from fromzero.interop.translate import Theirs
from fromzero.model import ModelConfig, Transformer
from fromzero.model.heads import HeadConfig
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.foreign import reading
from fromzero.tokenizer.gguf import GGUFHeader, TensorInfo, read_gguf_header

# Kinds that can be written -> the number that the file gives to all of its weights.
WRITABLE = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3}


def load_gguf(path: Path) -> tuple[ModelConfig, Iterator[tuple[str, Tensor]]]:
    """A model's shape, and its tensors (fp32, by our names) as they are asked for; `load_tokenizer` has its tokenizer.

    Raises UserError for a damaged file, and for what is not known here.
    """
    path = Path(path)
    header = read_gguf_header(path)
    with reading(path, "a GGUF file with a model"):
        _check_extents(header, path.stat().st_size)
        shapes = {tensor.name: list(tensor.shape) for tensor in header.tensors if tensor.name != FACTORS}
        config, layout = _read_config(path, header, shapes)
        if config.layers > len(shapes):
            raise UserError(f"its settings say {config.layers} layers, but it has {len(shapes)} tensors")
        ours = build(config, HeadConfig(), torch.float32, path).state_dict()
        places = plan(list(ours), config, layout)
        assert places is not None
        check_tensors(places, shapes, ours, config, path)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for info in header.tensors:
            if parts := places.get(info.name):
                theirs = torch.from_numpy(_read(path, header, info))
                yield from ((name, part.pair(ours[name], theirs)[1].reshape(ours[name].shape)) for name, part in parts)

    return config, tensors()


def save_gguf(model: Transformer, tokenizer_folder: Path, path: Path, kind: str = "f16") -> None:
    """Write a model and its tokenizer as one file that llama.cpp runs. kind: how matrices are stored, of WRITABLE.

    A matrix whose rows are not whole blocks is stored as f16. Raises UserError for what GGUF can't hold.
    """
    if kind not in WRITABLE:
        raise UserError(f"weights can't be written as {kind!r}; choose one of {', '.join(WRITABLE)}")
    written = ((name, family.write(model.config)) for name, family in ARCHITECTURES.items())
    architecture, settings = next(((name, found) for name, found in written if found is not None), ("", {}))
    state = model.state_dict()
    places = plan(list(state), model.config, f"gguf.{architecture}") if architecture else None
    if places is None:
        known, changed = ", ".join(ARCHITECTURES), model.config.changed()
        raise UserError(f"GGUF files are written for {known}, and none of these can have the settings {changed}")
    del settings["architectures"], settings["model_type"]
    factors = settings.pop(FACTORS, None)
    metadata = {"general.architecture": architecture, "general.name": path.stem, "general.file_type": WRITABLE[kind]}
    metadata |= {"general.quantization_version": 2} if kind.startswith("q") else {}
    metadata |= {f"{architecture}.{name}": value for name, value in settings.items() if value is not None}
    metadata |= write_tokenizer(load_tokenizer(tokenizer_folder), model.config.vocab_size)
    shapes = {name: tuple(shape_of(parts, state)) for name, parts in places.items()}
    infos = _placed(shapes if factors is None else {**shapes, FACTORS: factors.shape}, kind)

    def data(info: TensorInfo) -> bytes:
        if info.name == FACTORS:
            return factors.tobytes()
        tensor = put_together(places[info.name], state, torch.Size(info.shape), torch.float32)
        return quantise(tensor.detach().cpu().numpy(), KINDS[info.type])

    write_gguf(path, metadata, infos, map(data, infos))


def _placed(shapes: dict[str, tuple[int, ...]], kind: str) -> list[TensorInfo]:
    """Tensors one after the other. What has one dimension is small, and fp32, as llama.cpp wants it."""
    infos, offset, numbers = [], 0, {stored.name: number for number, stored in KINDS.items()}
    for name, shape in shapes.items():
        blocks = shape[-1] % KINDS[numbers[kind]].size == 0
        number = numbers["f32" if len(shape) == 1 or name == "position_embd.weight" else kind if blocks else "f16"]
        infos.append(TensorInfo(name, shape, number, offset))
        offset += -(-KINDS[number].bytes_of(shape) // ALIGNMENT) * ALIGNMENT
    return infos


def _read_config(path: Path, header: GGUFHeader, shapes: dict[str, list[int]]) -> tuple[ModelConfig, str]:
    """The settings, and what the layout of the tensors is called."""
    name = header.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UserError(f"it holds a model of the architecture {name!r:.40}; known are {', '.join(ARCHITECTURES)}")
    raw: dict[str, Any] = {key.removeprefix(f"{name}."): value for key, value in header.metadata.items()}
    # Floats are fp32 there: what has the fewest digits was meant.
    raw |= {key: float(str(np.float32(value))) for key, value in raw.items() if isinstance(value, float)}
    raw |= {info.name: _read(path, header, info) for info in header.tensors if info.name == FACTORS}
    raw["vocab_size"] = shapes.get("token_embd.weight", [0])[0]
    theirs = Theirs(raw, str(path), ["lm_head.weight"] if "output.weight" in shapes else [])
    return ARCHITECTURES[name].read(theirs), f"gguf.{name}"


def _check_extents(header: GGUFHeader, size: int) -> None:
    """Raise UserError unless each tensor is of a known kind, and inside the file, and none is in another."""
    if header.byte_order != "<":
        raise UserError("its numbers have the other byte order; convert it on a machine of the usual one")
    end = 0
    for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
        if tensor.type not in KINDS:
            kinds = ", ".join(kind.name for kind in KINDS.values())
            raise UserError(f"tensor '{tensor.name}' is stored as ggml's type {tensor.type}; known are {kinds}")
        if tensor.offset < end or tensor.offset % header.metadata.get("general.alignment", ALIGNMENT):
            raise UserError(f"tensor '{tensor.name}' is inside of another, or where none begins; get the file again")
        end = tensor.offset + KINDS[tensor.type].bytes_of(tensor.shape)
    if header.data_start + end > size:
        raise UserError(f"it has {size} bytes, but its tensors need {header.data_start + end}; get it again")


def _read(path: Path, header: GGUFHeader, tensor: TensorInfo) -> np.ndarray:
    kind = KINDS[tensor.type]
    size = kind.bytes_of(tensor.shape)
    data = np.fromfile(path, np.uint8, size, offset=header.data_start + tensor.offset)
    if len(data) != size:
        raise UserError(f"{path} ends inside of tensor '{tensor.name}'; get it again")
    return dequantise(data, kind, tensor.shape)
