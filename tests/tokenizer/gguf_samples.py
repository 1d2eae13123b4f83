"""A small writer of GGUF files."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"GGUF"


def write_gguf(path: Path, metadata: dict[str, Any], tensors: Sequence[tuple[Any, ...]] = (), order: str = "<") -> Path:
    """Metadata values are texts, bools, ints (as uint32), floats, lists of texts or of lists, or arrays of numbers.

    tensors: of each its name and shape, and maybe type and offset.
    """

    def number(code: str, value: Any) -> bytes:
        return struct.pack(order + code, value)

    def text(value: str) -> bytes:
        return number("Q", len(value.encode())) + value.encode()

    def typed(value: Any) -> tuple[int, bytes]:
        if isinstance(value, str):
            return 8, text(value)
        if isinstance(value, bool):
            return 7, number("?", value)
        if isinstance(value, int):
            return 4, number("I", value)
        if isinstance(value, float):
            return 6, number("f", value)
        if isinstance(value, np.ndarray):
            kind = {"float32": 6, "int32": 5, "uint8": 0, "int8": 1}[value.dtype.name]
            data = value.astype(value.dtype.newbyteorder(order)).tobytes()
            return 9, number("I", kind) + number("Q", len(value)) + data
        parts = [typed(part) for part in value]
        inner = parts[0][0] if parts else 8
        return 9, number("I", inner) + number("Q", len(parts)) + b"".join(data for _, data in parts)

    out = [MAGIC, number("I", 3), number("Q", len(tensors)), number("Q", len(metadata))]
    for name, value in metadata.items():
        kind, data = typed(value)
        out += [text(name), number("I", kind), data]
    for i, (name, shape, *place) in enumerate(tensors):
        dimensions = b"".join(number("Q", size) for size in shape[::-1])
        kind, offset = place or (0, 32 * i)
        out += [text(name), number("I", len(shape)), dimensions, number("I", kind), number("Q", offset)]
    path.write_bytes(b"".join(out))
    return path
