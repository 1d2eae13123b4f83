"""Safetensors files of a model folder, one or many, read and written one tensor at a time.

The library reads and checks the files; it can't write what is not in memory all at once, so we write them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fromzero.errors import UserError
from fromzero.files import write_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_CONFIG_BYTES, MAX_INDEX_BYTES = 1_000_000, 100_000_000
SHARD_BYTES = 5_000_000_000
_RENEW_BYTES = 64_000_000
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip
_FLOATS = ("F64", "F32", "F16", "BF16")


class Weights:
    """The tensors of a folder: names and shapes at once, values when they are asked for.

    Raises UserError for files that are missing, invalid, or hold a name twice.
    """

    def __init__(self, folder: Path, name: str = WEIGHTS) -> None:
        self.shapes: dict[str, list[int]] = {}
        self._names: dict[Path, list[str]] = {}
        for file in _files(folder, name):
            with _opened(file) as opened:
                self._names[file] = list(opened.keys())
                for name in self._names[file]:
                    if name in self.shapes:
                        raise UserError(f"{folder}: tensor '{name}' is in two files")
                    self.shapes[name] = opened.get_slice(name).get_shape()

    def read(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
        """The wanted tensors, one at a time. A file is opened anew now and then, so that what was read is let go."""
        for file, names in self._names.items():
            opened, size = _opened(file), 0
            for name in filter(wanted, names):
                if size > _RENEW_BYTES:
                    opened, size = _opened(file), 0
                stored = opened.get_slice(name).get_dtype()
                if stored not in _FLOATS and not name.endswith(".codes"):
                    raise UserError(f"{file}: tensor '{name}' holds {stored}; supported are {', '.join(_FLOATS)}")
                tensor = opened.get_tensor(name)
                size += tensor.nbytes
                yield name, tensor


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is not valid safetensors: {error}") from error


def _files(folder: Path, name: str) -> list[Path]:
    files = [folder / name]
    if not files[0].exists() and (folder / INDEX).exists():
        shards = read_json(folder / INDEX, MAX_INDEX_BYTES).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
            raise UserError(f"{folder / INDEX}: weight_map should say for each tensor which file it is in")
        names = sorted(set(shards.values()))
        if any(Path(name).name != name for name in names):
            raise UserError(f"{folder / INDEX} names files outside of the folder; it is refused")
        files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file; only safetensors weights are read, never pickles (.bin, .pt)")
    return files


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors into one file. Raises OSError when the disk is full, as every other write does."""
    _write(path, tensors, tensors.__getitem__)


def save_shards(
    folder: Path, tensors: Mapping[str, Tensor], make: Callable[[str], Tensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write `model.safetensors`, or several files and an index where there are more bytes than `shard_bytes`.

    tensors: on the device `meta`, for shapes and dtypes. make: gives one by its name; it is asked for one at a time.
    """
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards, filled = [*shards, {}], 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    if len(shards) == 1:
        _write(folder / WEIGHTS, tensors, make)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        places |= dict.fromkeys(shard, file)
        _write(folder / file, shard, make)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _write(path: Path, tensors: Mapping[str, Tensor], make: Callable[[str], Tensor]) -> None:
    header, order = safetensors_header(tensors)
    with path.open("wb") as file:
        file.write(header)
        for name in order:
            file.write(tensor_bytes(make(name)))


def safetensors_header(tensors: Mapping[str, Tensor]) -> tuple[bytes, list[str]]:
    """What a safetensors file begins with, eight bytes of length and a header in JSON; and the order of the tensors,
    whose numbers follow it, one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    # Wider numbers first, so that each tensor begins at a multiple of its numbers' size.
    order = sorted(tensors, key=lambda name: -tensors[name].itemsize)
    for name in order:
        start, end = end, end + tensors[name].nbytes
        kind, shape = _DTYPES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they lie in a safetensors file; no copy of one that is contiguous and on the CPU."""
    return tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data


def read_json(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError when there is none, or it is larger than `limit` bytes."""
    try:
        if path.stat().st_size > limit:
            raise UserError(f"{path} is larger than {limit} bytes; that is no file of settings")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name the folder of a model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object")
    return value
