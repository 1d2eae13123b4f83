"""Checkpoints: everything that a run needs to go on as if it had never stopped, safe against a kill at any moment.

A checkpoint is a folder `step-00000500/` with `model.safetensors`, `optimizer.safetensors` and `state.json`, which
holds the rest and the hashes of the other two. It is written under a temporary name, synced to disk and renamed, so a
folder with the final name is complete. Nothing in it is a pickle. Exact to the bit on a CPU; of random states it keeps
the CPU's only, so dropout on a GPU goes on with other draws.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fromzero.artifact import digest_file, sync_folder, write_json
from fromzero.console import say
from fromzero.interop import save_tensors

_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_TEMPORARY = ".unfinished"


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of `step` into `folder`; `state` is anything else that JSON can hold."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / _TEMPORARY
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors, numbers = _flatten(optimizer.state_dict())
    save_tensors(_own(model.state_dict()), temporary / _MODEL)
    save_tensors(_own(tensors), temporary / _OPTIMIZER)
    for name in (_MODEL, _OPTIMIZER):
        _sync(temporary / name)
    hashes = {name: digest_file(temporary / name) for name in (_MODEL, _OPTIMIZER)}
    everything = {"step": step, "state": dict(state), "optimizer": numbers, "files": hashes}
    everything["torch_rng"] = torch.get_rng_state().numpy().tobytes().hex()
    write_json(temporary / _STATE, everything)
    final = folder / f"step-{step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync_folder(folder)
    return final


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep`. The state goes first, so a half-deleted checkpoint counts as none."""
    for old in list_checkpoints(folder)[: -keep or None]:
        (old / _STATE).unlink()
        shutil.rmtree(old, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / _STATE).exists())


def load_newest(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Mapping[str, Any] | None:
    """Restore the newest checkpoint that is whole: weights, optimizer, torch's random state.

    Returns {'step': ..., 'state': ...}, or None when there is none. A damaged one is reported and the one before it
    is taken.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return _load(path, model, optimizer)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            say(f"{path} is damaged ({error}); trying the checkpoint before it")
            aside = path.with_name(f"damaged-{path.name}")  # out of the way, or pruning would keep it for a good one
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
    return None


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Mapping[str, Any]:
    saved = json.loads((path / _STATE).read_bytes())
    for name, expected in saved["files"].items():
        if digest_file(path / name) != expected:
            raise ValueError(f"{name} does not match its hash")
    model.load_state_dict(load_file(path / _MODEL))
    optimizer.load_state_dict(_unflatten(load_file(path / _OPTIMIZER), saved["optimizer"]))
    random_state = bytearray.fromhex(saved["torch_rng"])
    torch.set_rng_state(torch.frombuffer(random_state, dtype=torch.uint8))
    return {"step": saved["step"], "state": saved["state"]}


def _flatten(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state dict as named tensors, and the rest as JSON."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            target: dict[str, Any] = tensors if isinstance(value, Tensor) else numbers
            target[f"{index}.{name}"] = value
    return tensors, {"numbers": numbers, "param_groups": state["param_groups"]}


def _unflatten(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers["numbers"]}.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": numbers["param_groups"]}


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
