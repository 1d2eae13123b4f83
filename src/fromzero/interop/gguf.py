"""Models in GGUF files, llama.cpp's format: read and written one tensor at a time.

A file says how many layers there are, how wide, and where each tensor is. All of that is held against what is really in
the file before room is made for anything, so a lie costs nothing.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.interop.gguf_blocks import KINDS, dequantise, quantise
from fromzero.interop.gguf_families import (
    FACTORS,
    Place,
    family_of,
    ours_of,
    places,
    read_config,
    rope_factors,
    theirs_of,
    write_config,
)
from fromzero.interop.gguf_vocabulary import write_tokenizer
from fromzero.interop.gguf_writer import ALIGNMENT, TensorPlan, write_gguf
from fromzero.model import ModelConfig, Transformer
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.foreign import reading
from fromzero.tokenizer.gguf import GGUFHeader, TensorInfo, read_gguf_header

Layout = dict[str, list[Place]]

# Kinds that can be written -> the number that the file gives to all of its weights.
WRITABLE = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3}
_NUMBERS = {kind.name: number for number, kind in KINDS.items()}
_PLAIN = ("f32", "f16", "bf16")
_WHOLE = ("position_embd.weight", FACTORS)  # fp32 always, as everything of one dimension is


def load_gguf(path: Path) -> tuple[ModelConfig, Iterator[tuple[str, Tensor]]]:
    """A model's shape, and its tensors (fp32, by our names) as they are asked for; `load_tokenizer` has its tokenizer.

    Raises UserError for a damaged file, and for what is not known here.
    """
    path = Path(path)
    header = read_gguf_header(path)
    with reading(path, "a GGUF file with a model"):
        _check_extents(header, path.stat().st_size)
        shapes = {tensor.name: tensor.shape for tensor in header.tensors}
        with path.open("rb") as file:
            factors = [_read(file, header, tensor) for tensor in header.tensors if tensor.name == FACTORS]
        config, family = read_config(header.metadata, shapes, factors[0] if factors else None)
        layout = _checked_places(config, family, shapes)
    return config, _tensors(path, header, layout)


def save_gguf(model: Transformer, tokenizer_folder: Path, path: Path, kind: str = "f16") -> None:
    """Write a model and its tokenizer as one file that llama.cpp runs. kind: how matrices are stored, of WRITABLE.

    A matrix whose rows are not whole blocks is stored as f16. Raises UserError for what GGUF can't hold.
    """
    if kind not in WRITABLE:
        raise UserError(f"weights can't be written as {kind!r}; choose one of {', '.join(WRITABLE)}")
    config, state = model.config, model.state_dict()
    family = family_of(config)
    metadata = write_config(config, family) | {"general.name": path.stem, "general.file_type": WRITABLE[kind]}
    metadata |= {} if kind in _PLAIN else {"general.quantization_version": 2}
    metadata |= write_tokenizer(load_tokenizer(tokenizer_folder), config.vocab_size)
    layout = places(config, family)
    plans = [_plan(name, _shape(parts), kind) for name, parts in layout.items()]
    factors = rope_factors(config)
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        plans.append(_plan(FACTORS, factors.shape, kind))

    def data(plan: TensorPlan) -> bytes:
        if plan.name == FACTORS:
            return factors.tobytes()
        parts = layout[plan.name]
        tensors = [state[part.ours].detach().cpu().float() for part in parts]
        return quantise(theirs_of(tensors, parts).numpy(), KINDS[plan.kind])

    write_gguf(path, metadata, plans, map(data, plans))


def _plan(name: str, shape: tuple[int, ...], kind: str) -> TensorPlan:
    if name in _WHOLE or len(shape) == 1:
        kind = "f32"
    elif shape[-1] % KINDS[_NUMBERS[kind]].size:
        kind = "f16"
    return TensorPlan(name, shape, _NUMBERS[kind], KINDS[_NUMBERS[kind]].bytes_of(shape, name))


def _shape(parts: list[Place]) -> tuple[int, ...]:
    """Of our tensors one above the other."""
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


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
        end = tensor.offset + KINDS[tensor.type].bytes_of(tensor.shape, tensor.name)
    if header.data_start + end > size:
        raise UserError(f"it has {size} bytes, but its tensors need {header.data_start + end}; get it again")


def _checked_places(config: ModelConfig, family: str, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """What is where. Raises UserError unless the file has just the tensors that its settings call for."""
    if config.layers > len(shapes):
        raise UserError(f"its settings say {config.layers} layers, but it has {len(shapes)} tensors")
    layout = places(config, family)
    for name in layout.keys() | shapes.keys() - {FACTORS}:
        if name not in shapes or name not in layout:
            what = "lacks" if name not in shapes else "has"
            raise UserError(f"it {what} the tensor '{name}', unlike a {family} model of its settings")
        if shapes[name] != _shape(layout[name]):
            raise UserError(
                f"tensor '{name}' has the shape {shapes[name]}, but by the file's settings {_shape(layout[name])}"
            )
    return layout


def _tensors(path: Path, header: GGUFHeader, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    with path.open("rb") as file, reading(path, "a GGUF file with a model"):
        for tensor in header.tensors:
            if parts := layout.get(tensor.name):
                theirs = torch.from_numpy(_read(file, header, tensor))
                yield from zip((part.ours for part in parts), ours_of(theirs, parts), strict=True)


def _read(file: BinaryIO, header: GGUFHeader, tensor: TensorInfo) -> np.ndarray:
    kind = KINDS[tensor.type]
    size = kind.bytes_of(tensor.shape, tensor.name)
    file.seek(header.data_start + tensor.offset)
    data = np.fromfile(file, np.uint8, size)
    if len(data) != size:
        raise UserError(f"it ends inside of tensor '{tensor.name}'; get it again")
    return dequantise(data, kind, tensor.shape)
