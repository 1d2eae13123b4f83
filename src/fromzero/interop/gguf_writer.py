"""Writing the GGUF format: metadata, where each tensor is, and the tensors one after the other."""

import itertools
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.tokenizer.gguf import MAGIC, TensorInfo

ALIGNMENT = 32  # bytes that the header and all tensors are filled up to a multiple of
_ARRAYS = {"uint8": 0, "int8": 1, "int32": 5, "float32": 6}
_STRING, _ARRAY = 8, 9


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: list[TensorInfo], data: Iterable[bytes]) -> None:
    """Write a file whole or not at all. data: the bytes of each tensor, in the order of their offsets.

    Metadata values are texts, bools, whole numbers, floats (fp32), lists of texts, and arrays of numbers.
    """
    header = MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    header += b"".join(_text(name) + _value(value) for name, value in metadata.items())
    header += b"".join(map(_info, tensors))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            for block in itertools.chain([header], data):
                file.write(block)
                file.write(bytes(-len(block) % ALIGNMENT))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _info(tensor: TensorInfo) -> bytes:
    shape = tensor.shape[::-1]
    return _text(tensor.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor.type, tensor.offset)


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
