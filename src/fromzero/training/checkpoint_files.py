"""The files of a checkpoint, as storage for torch.distributed.checkpoint, which decides who writes which part of what.

A checkpoint is a folder `step-00000500/`. Rank 3 writes its parts of weights and of optimizer states into
`model-00003.safetensors` and `optimizer-00003.safetensors`, and its random states into `random-00003.json`; the first
rank writes `state.json` last: the rest, where each part of each tensor is, and the SHA-256 of every file, its own
included. All of it is made under a temporary name, synced to disk and renamed. Nothing is a pickle.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.metadata import TensorStorageMetadata as SavedTensor
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from fromzero.files import digest_file, digest_of, sync_folder, write_text
from fromzero.interop.weights import safetensors_header, tensor_bytes

FORMAT = 1
STATE, TEMPORARY, DISCARDED = "state.json", ".unfinished", ".discarded"
MAX_STATE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Saved:
    """What `state.json` says."""

    step: int
    identity: Mapping[str, str]
    """What a run must share to go on from here: optimizer, tokenizer."""
    files: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, SavedTensor]
    """By 'model/NAME' and 'optimizer/KEY.NAME', where NAME is the parameter's."""
    places: Mapping[tuple[str, tuple[int, ...]], str]
    """File of each part of a tensor, by the tensor's name and the offsets of the part."""
    numbers: Mapping[str, Mapping[str, Any]]
    """What the optimizer keeps beside tensors, by the parameter's name."""
    state: Mapping[str, Any]


def read_state(folder: Path) -> Saved:
    """Read `state.json`. Raises an error of many kinds when it is not as it was written."""
    if (folder / STATE).stat().st_size > MAX_STATE_BYTES:
        raise ValueError(f"{STATE} is larger than {MAX_STATE_BYTES} bytes")
    found = json.loads((folder / STATE).read_bytes())
    if found.pop("self") != digest_of(found):
        raise ValueError(f"{STATE} does not match its hash")
    if found["format"] != FORMAT:
        raise ValueError(f"it has format {found['format']}, this version reads {FORMAT}")
    if strangers := [name for name in found["files"] if Path(name).name != name]:
        raise ValueError(f"{STATE} names a file outside of the folder: {strangers[0]}")
    entries = found["tensors"].items()
    return Saved(
        step=int(found["step"]),
        identity=found["identity"],
        files=found["files"],
        tensors={name: _tensor(*entry) for name, entry in entries},
        places={(name, tuple(offsets)): file for name, entry in entries for file, offsets, _ in entry[2]},
        numbers=found["numbers"],
        state=found["state"],
    )


def _tensor(dtype: str, size: list[int], parts: list[tuple[str, list[int], list[int]]]) -> SavedTensor:
    if not isinstance(found := getattr(torch, dtype), torch.dtype):
        raise ValueError(f"{dtype} is no dtype")
    chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for _, offsets, sizes in parts]
    return SavedTensor(TensorProperties(found), torch.Size(size), chunks)


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError, naming the file, unless all are as they were written; OSError when one can't be read."""
    for name, expected in files.items():
        size = (folder / name).stat().st_size
        if size != expected["bytes"]:
            raise ValueError(f"{name} has {size} bytes instead of {expected['bytes']}")
        if digest_file(folder / name) != expected["sha256"]:
            raise ValueError(f"{name} does not match its hash")


def discard(path: Path) -> None:
    """Delete a checkpoint; at once it is none any more, whatever happens while its files are deleted."""
    aside = path.with_name(DISCARDED)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside)


class _Storage:
    """What a storage of one checkpoint need not do: plans stay as they are."""

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None: ...

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def prepare_local_plan(self, plan: Any) -> Any:
        return plan

    def prepare_global_plan(self, plans: Any) -> Any:
        return plans


class Writer(_Storage, dcp.StorageWriter):
    """Writes what a rank holds; the first one also the state, and gives the folder its name."""

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, Tensor],
        numbers: Mapping[str, Mapping[str, Any]],
        random: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> None:
        """tensors: this rank's parts, on the CPU. state: of the first rank, what `Saved` holds beside them."""
        self.folder, self.temporary = folder, folder.with_name(TEMPORARY)
        self.tensors, self.numbers, self.random, self.state = tensors, numbers, random, state
        self.rank = 0

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Make the folder, before any rank is told its part of the plan."""
        self.rank = kwargs["rank"]
        if is_coordinator:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir(parents=True)

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> Future[list[WriteResult]]:
        """This rank's files; the result tells the first rank what is in them."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        parts = {}
        for item in plan.items:
            group, _, name = item.index.fqn.partition("/")
            assert item.tensor_data is not None
            groups[group][name] = self.tensors[item.index.fqn]
            chunk = item.tensor_data.chunk
            parts[item.index.fqn] = [self._file(group), list(chunk.offsets), list(chunk.sizes)]
        files = {self._file(group): self._write(group, tensors) for group, tensors in groups.items() if tensors}
        name = f"random-{self.rank:05d}.json"
        files[name] = write_hashed(self.temporary / name, [json.dumps(self.random).encode()])
        told = {"files": files, "parts": parts, "numbers": self.numbers}
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(MetadataIndex(name), 0, told)])
        return done

    def finish(self, metadata: dcp.Metadata, results: list[list[WriteResult]]) -> None:
        """On the first rank, when all have written: the state, then the name."""
        tensors: dict[str, Any] = {}
        for name, tensor in metadata.state_dict_metadata.items():
            assert isinstance(tensor, SavedTensor)
            tensors[name] = [str(tensor.properties.dtype).removeprefix("torch."), list(tensor.size), []]
        told: dict[str, Any] = {"files": {}, "numbers": {}}
        for result in (result.storage_data for rank in results for result in rank):
            for name, part in result["parts"].items():
                tensors[name][2].append(part)
            for name, entries in told.items():
                entries.update(result[name])
        state = {"format": FORMAT, "tensors": tensors, **told, **self.state}
        write_text(self.temporary / STATE, json.dumps({**state, "self": digest_of(state)}))
        if self.folder.exists():
            discard(self.folder)
        self.temporary.rename(self.folder)
        sync_folder(self.folder.parent)

    def _file(self, group: str) -> str:
        return f"{group}-{self.rank:05d}.safetensors"

    def _write(self, group: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        header, order = safetensors_header(tensors)
        pieces = (tensor_bytes(tensors[name]) for name in order)
        return write_hashed(self.temporary / self._file(group), [header, *pieces])


def write_hashed(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file; on the disk when this returns. Its size, and the SHA-256 of what should be in it.

    Both writing and hashing let other threads run meanwhile.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            size += file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


class Reader(_Storage, dcp.StorageReader):
    """Reads the parts of tensors that a rank needs, whoever wrote them."""

    def __init__(self, folder: Path, saved: Saved) -> None:
        """folder: one whose files were checked."""
        self.folder, self.saved = folder, saved

    def read_metadata(self, *args: Any, **kwargs: Any) -> dcp.Metadata:
        """The table of tensors and their parts."""
        return dcp.Metadata(dict(self.saved.tensors))

    def set_up_storage_reader(self, metadata: dcp.Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing: all is known."""

    def read_data(self, plan: dcp.LoadPlan, planner: dcp.LoadPlanner) -> Future[None]:
        """Copy what is asked for into the tensors that are there."""
        wanted: dict[str, list[Any]] = {}
        for item in plan.items:
            index = item.storage_index
            wanted.setdefault(self.saved.places[index.fqn, tuple(index.offset or ())], []).append(item)
        for file, items in wanted.items():
            with safe_open(self.folder / file, "pt") as opened:
                for item in items:
                    name = item.storage_index.fqn.partition("/")[2]
                    stored = opened.get_slice(name) if item.lengths else opened.get_tensor(name)
                    slices = tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))
                    planner.resolve_tensor(item).detach().copy_(stored[slices])
        done: Future[None] = Future()
        done.set_result(None)
        return done


def clear_leftovers(folder: Path) -> None:
    """Delete what a kill has left half-written or half-deleted."""
    for name in (TEMPORARY, DISCARDED):
        with suppress(OSError):
            shutil.rmtree(folder / name)
