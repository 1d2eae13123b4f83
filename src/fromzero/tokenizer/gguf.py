"""GGUF, the file format of llama.cpp: its header, which holds metadata and where each tensor is.

    "GGUF", version, number of tensors, number of entries
    entries: name, type, value          arrays: type of the elements, their number, the elements
    tensors: name, dimensions, type, offset from where the data starts

All numbers have the byte order of the machine that wrote the file. Nothing in the file is believed before it is checked
against what is left of the file: a header can't make the reader take more memory than a few times its own size.
"""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fromzero.errors import UserError
from fromzero.tokenizer.foreign import MAX_FILE_BYTES, reading

MAGIC = b"GGUF"
MAX_DEPTH = 4  # of arrays in arrays
MAX_DIMENSIONS = 4
_NUMBERS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))  # as in struct and NumPy
_STRING, _ARRAY = 8, 9


class TensorInfo(NamedTuple):
    """Where a tensor is. shape: rows first, as NumPy counts (the file has it the other way round)."""

    name: str
    shape: tuple[int, ...]
    type: int
    """The number that ggml gives the type, such as 0 for float32."""
    offset: int
    """Bytes from `data_start`."""


class GGUFHeader(NamedTuple):
    """All of a GGUF file but the tensors' data. metadata: name -> number, text, list, or array for numbers."""

    metadata: dict[str, Any]
    tensors: list[TensorInfo]
    data_start: int
    byte_order: str
    """'<' or '>', as in NumPy's types."""


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file of version 2 or 3. Raises UserError when it is damaged or none."""
    path = Path(path)
    try:
        with path.open("rb") as file, reading(path, "a GGUF file"):
            return _Reader(file, path.stat().st_size).header()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error})") from error


class _Reader:
    """Reads forward through a file whose size is known."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left, self._order = file, min(size, MAX_FILE_BYTES), "<"

    def header(self) -> GGUFHeader:
        if self._take(4) != MAGIC:
            raise UserError("it is not a GGUF file")
        version = self._number("I")
        if version & 0xFFFF == 0:  # no version is that large: the other byte order
            self._order, version = ">", struct.unpack(">I", struct.pack("<I", version))[0]
        if version not in (2, 3):
            raise UserError(f"it has version {version} of GGUF; versions 2 and 3 can be read")
        tensor_count, entries = self._count(24), self._count(13)
        metadata = {self._text(): self._value(self._number("I")) for _ in range(entries)}
        tensors = [self._tensor() for _ in range(tensor_count)]
        if len(metadata) != entries or len({tensor.name for tensor in tensors}) != tensor_count:
            raise UserError("it has the same name twice; get the file again")
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise UserError(f"it has general.alignment {alignment!r}; it should be a positive number")
        return GGUFHeader(metadata, tensors, -(-self._file.tell() // alignment) * alignment, self._order)

    def _tensor(self) -> TensorInfo:
        name, dimensions = self._text(), self._number("I")
        if dimensions > MAX_DIMENSIONS:
            raise UserError(f"tensor {name!r} has {dimensions} dimensions; more than {MAX_DIMENSIONS} are not read")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        if math.prod(shape) >= 1 << 62:
            raise UserError(f"tensor {name!r} has the shape {shape}, which no machine can hold")
        return TensorInfo(name, shape, self._number("I"), self._number("Q"))

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in _NUMBERS or kind == _STRING:
            return self._text() if kind == _STRING else self._number(_NUMBERS[kind])
        if kind != _ARRAY or depth >= MAX_DEPTH:
            raise UserError(f"it has a value of type {kind}, or arrays in too many arrays")
        inner = self._number("I")
        if inner in _NUMBERS:
            dtype = np.dtype(self._order + _NUMBERS[inner])
            return np.frombuffer(self._take(self._count(dtype.itemsize) * dtype.itemsize), dtype)
        return [self._value(inner, depth + 1) for _ in range(self._count(8 if inner == _STRING else 12))]

    def _text(self) -> str:
        return self._take(self._count(1)).decode()

    def _count(self, least: int) -> int:
        """A number of things that take at least so many bytes each. Raises UserError when they can't be there."""
        count = self._number("Q")
        if count * least > self._left:
            raise UserError(f"it claims to have {count} things where {self._left} bytes are left; get the file again")
        return count

    def _number(self, code: str) -> Any:
        return struct.unpack(self._order + code, self._take(struct.calcsize(self._order + code)))[0]

    def _take(self, size: int) -> bytes:
        data = self._file.read(size) if size <= self._left else b""
        if len(data) != size:
            raise UserError("it ends too early, or has too long a header; get the file again")
        self._left -= size
        return data
