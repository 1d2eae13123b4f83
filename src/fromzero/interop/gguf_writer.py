"""Writing the GGUF format: metadata, where each tensor is, and the tensors one after the other."""

import itertools
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fromzero.tokenizer.gguf import MAGIC

ALIGNMENT = 32
_ARRAYS = {"uint8": 0, "int8": 1, "int32": 5, "float32": 6}
_STRING, _ARRAY = 8, 9


class TensorPlan(NamedTuple):
    """A tensor to be written. kind: ggml's number of how it is stored; size: in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    size: int


def write_gguf(path: Path, metadata: Mapping[str, Any], plans: list[TensorPlan], data: Iterable[bytes]) -> None:
    """Write a file whole or not at all. data: the bytes of each planned tensor, in order.

    Metadata values are texts, bools, whole numbers, floats (fp32), lists of texts, and arrays of numbers.
    """
    sizes = [_aligned(plan.size) for plan in plans]
    offsets = itertools.accumulate(sizes, initial=0)
    parts = [MAGIC, struct.pack("<IQQ", 3, len(plans), len(metadata))]
    parts += [_text(name) + _value(value) for name, value in metadata.items()]
    parts += [_info(plan, offset) for plan, offset in zip(plans, offsets, strict=False)]
    header = b"".join(parts)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(header.ljust(_aligned(len(header)), b"\0"))
            for plan, block in zip(plans, data, strict=True):
                assert len(block) == plan.size
                file.write(block)
                file.write(bytes(_aligned(plan.size) - plan.size))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _info(plan: TensorPlan, offset: int) -> bytes:
    shape = plan.shape[::-1]
    return _text(plan.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, plan.kind, offset)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"))
        return struct.pack("<IIQ", _ARRAY, _ARRAYS[value.dtype.name], len(value)) + little.tobytes()
    if isinstance(value, list):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
    code, kind = {bool: ("?", 7), int: ("I", 4), float: ("f", 6)}[type(value)]
    return struct.pack("<I" + code, kind, value)
