"""Checkpoints: everything that a run needs to go on as if it had never stopped, safe against a kill at any moment.

The loop only copies tensors to memory of the host; a thread writes, hashes, syncs and renames (`checkpoint_files` says
what). Weights and optimizer states are kept by the names of parameters, so another number of ranks, shared in another
way, goes on from the same folder. Exact to the bit on a CPU with the same ranks.
"""

import itertools
import json
import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.tensor import DTensor

from fromzero.console import say
from fromzero.errors import UserError
from fromzero.model.quantized import quantized
from fromzero.parallel import Fleet
from fromzero.training.checkpoint_files import (
    STATE,
    Reader,
    Saved,
    Writer,
    check_files,
    clear_leftovers,
    discard,
    read_state,
)
from fromzero.training.optimizers.base import Optimizer
from fromzero.training.random_state import random_state, seed_random_state, set_random_state

Resume = Literal["auto", "never"] | int
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError)
_SET_ASIDE = "set-aside"
_RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""Where torchrun and Slurm say how often they have started the same command again by themselves."""


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).exists())


class Checkpoints:
    """The checkpoints of a run in a folder. All ranks call each method, in the same order."""

    def __init__(
        self,
        folder: Path,
        fleet: Fleet,
        optimizer: Optimizer,
        keep: int,
        keep_best: bool = False,
        identity: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        """keep: how many of the newest. identity: what a run must have in common with one that goes on from it, by
        what it is called, as in {'tokenizer': its digest}. seed: for random states of ranks that were not there.
        """
        self.folder, self.fleet, self.world, self.optimizer = folder, fleet, fleet.world, optimizer
        self.keep, self.keep_best, self.seed = keep, keep_best, seed
        self.identity = {"optimizer": type(optimizer).__name__, **(identity or {})}
        self.best: tuple[int, float] | None = None
        """Step and held-out loss of the best one that is there."""
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[str] | None = None
        alone = self.world.size == 1
        # Of its own: what the thread says to other ranks must not get between what the loop says to them.
        self._dcp = {"no_dist": True} if alone else {"process_group": dist.new_group(backend="gloo")}
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")

    def save(self, step: int, state: Mapping[str, Any], loss: float | None = None) -> None:
        """Begin to write the checkpoint of a step; the one before it is finished first.

        state: anything else, of the first rank, that JSON can hold and that nobody changes. loss: on held-out data, of
        these weights. A disk that is full or may not be written to is said, and nothing else happens.
        """
        self.wait()
        best = self.best
        if self.keep_best and loss is not None and (best is None or loss < best[1]):
            best = step, loss
        live = self._tensors()
        told = {"step": step, "identity": self.identity, "state": {"run": dict(state), "best": best}}
        writer = Writer(self._path(step), _on_host(live), self._numbers(), random_state(), told)
        self._pending = self._thread.submit(self._write, writer, live, best)

    def wait(self) -> str:
        """Until nothing is being written; why the last save failed, or ''. Raises what is no fault of the disk."""
        pending, self._pending = self._pending, None
        return pending.result() if pending else ""

    def resume(self, choice: Resume = "auto") -> tuple[int, Mapping[str, Any]] | None:
        """Restore weights, optimizer and random states from a checkpoint; its step and state, or None without one.

        choice: 'auto' takes the newest that is whole, and says which are not; a number that of the step; 'never' none.
        Checkpoints that are passed over are set aside. Raises UserError when that of the step is missing or damaged,
        or the one found is of another model, optimizer or identity; nothing is changed then.
        """
        if self.world.largest(max(int(os.environ.get(name, "0")) for name in _RESTARTS)):
            choice = "auto"  # it was obeyed when the run began, and what came after that must not be lost
        found = self.world.share([path.name for path in list_checkpoints(self.folder)])
        if self.world.first:
            clear_leftovers(self.folder)
        if choice == "never":
            self._set_aside(found)
            return None
        if choice != "auto":
            name = self._path(choice).name
            if name not in found:
                there = ", ".join(str(_step(name)) for name in found) or "none"
                raise UserError(f"{self.folder} has no checkpoint of step {choice}; there are {there}")
            found, later = [name], found[found.index(name) + 1 :]
        for name in reversed(found):
            saved, damage = self._checked(self.folder / name)
            if saved:
                self._load(self.folder / name, saved)
                if choice != "auto":
                    self._set_aside(later)
                return saved.step, saved.state["run"]
            if choice != "auto":
                raise UserError(f"{self.folder / name} is damaged ({damage}); name another step, or 'auto'")
            say(f"{self.folder / name} is damaged ({damage}); trying the checkpoint before it")
            self._set_aside([name])
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _tensors(self) -> dict[str, Tensor]:
        """What this rank holds but for what is frozen; DTensors where ranks share them."""
        frozen = {name for part in self.fleet.parts for name in frozen_names(part)}
        held = (item for part in self.fleet.parts for item in part.state_dict().items())
        found = {f"model/{name}": tensor for name, tensor in held if name not in frozen}
        for name, parameter in self.fleet.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer/{key}.{name}"] = value
        return found

    def _numbers(self) -> dict[str, dict[str, Any]]:
        states = {name: self.optimizer.state.get(p, {}) for name, p in self.fleet.named_parameters()}
        kept = {name: {k: v for k, v in state.items() if not isinstance(v, Tensor)} for name, state in states.items()}
        return {name: numbers for name, numbers in kept.items() if numbers}

    def _write(self, writer: Writer, live: dict[str, Tensor], best: tuple[int, float] | None) -> str:
        """In the thread: of `live` only shapes and placements are looked at."""
        try:
            dcp.save(live, storage_writer=writer, **self._dcp)
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            if not all(isinstance(cause, OSError) for cause in causes):
                raise RuntimeError(f"{writer.folder} could not be written") from causes[0]
            say(f"warning: {writer.folder} could not be written ({causes[0]}); training goes on, the next one is tried")
            if self.world.first:
                clear_leftovers(self.folder)
            return str(causes[0])
        self.best = best
        if self.world.first:
            self._prune()
        return ""

    def _prune(self) -> None:
        """Delete all but the newest and the best."""
        best = self._path(self.best[0]) if self.best else None
        for old in list_checkpoints(self.folder)[: -self.keep]:
            if old != best:
                _or_warn(discard, old)

    def _set_aside(self, names: list[str]) -> None:
        """Out of the way, but nothing is deleted before the run is finished."""
        if not self.world.first or not names:
            return
        aside = self.folder / _SET_ASIDE
        for name in names:
            place = next(place for i in itertools.count() if not (place := aside / f"{name}.{i}").exists())
            aside.mkdir(exist_ok=True)
            _or_warn((self.folder / name).rename, place)
        say(f"set aside in {aside} until the run is finished: {', '.join(names)}")

    def _checked(self, path: Path) -> tuple[Saved | None, str]:
        """The state when all files are as they were written, else what is wrong; each rank checks some of the files."""
        saved, damage = None, ""
        try:
            saved = read_state(path)
            mine = sorted(saved.files)[self.world.rank :: self.world.size]
            check_files(path, {name: saved.files[name] for name in mine})
        except _DAMAGE as error:
            damage = str(error) or type(error).__name__
        damages = [text for text in self.world.gather(damage) if text]
        return (None, damages[0]) if damages else (saved, "")

    def _load(self, path: Path, saved: Saved) -> None:
        self._compare(path, saved, {name: t for name, t in self._tensors().items() if name.startswith("model/")})
        self.optimizer.allocate()
        live = {name: tensor for name, tensor in self._tensors().items() if name in saved.tensors}
        dcp.load(live, storage_reader=Reader(path, saved), **self._dcp)
        for name, parameter in self.fleet.named_parameters():
            self.optimizer.state[parameter].update(saved.numbers.get(name, {}))
        self.best = tuple(saved.state["best"]) if saved.state["best"] else None
        if self.best and not self._path(self.best[0]).exists():
            self.best = None
        own = path / f"random-{self.world.rank:05d}.json"
        if own.name in saved.files:
            set_random_state(json.loads(own.read_bytes()))
        else:
            seed_random_state(self.seed, saved.step, self.world.rank)
        before = sum(name.startswith("random-") for name in saved.files)
        if before != self.world.size:
            say(f"{path} was written by {before} processes, and there are {self.world.size} now: random draws differ")

    def _compare(self, path: Path, saved: Saved, model: Mapping[str, Tensor]) -> None:
        """Raise UserError, on all ranks, that names the first difference between what was saved and what is here."""
        everywhere = set().union(*self.world.gather(list(model)))
        differences = [text for text in self.world.gather(self._difference(saved, model, everywhere)) if text]
        if differences:
            raise UserError(
                f"{path} is of another run: {differences[0]}; take the settings that it was made with, name another "
                "folder, or begin anew with resume: never"
            )

    def _difference(self, saved: Saved, model: Mapping[str, Tensor], everywhere: set[str]) -> str:
        for what, value in self.identity.items():
            if (before := saved.identity.get(what)) != value:
                return f"its {what} is {before}, here it is {value}"
        for name, tensor in model.items():
            if (stored := saved.tensors.get(name)) is None:
                return f"it has no tensor '{name.partition('/')[2]}'"
            there, here = _shape(stored.size, stored.properties.dtype), _shape(tensor.shape, tensor.dtype)
            if there != here:
                return f"its tensor '{name.partition('/')[2]}' is {there}, here it is {here}"
        extra = [name for name in saved.tensors if name.startswith("model/") and name not in everywhere]
        return f"it has a tensor '{extra[0].partition('/')[2]}', which the model here has not" if extra else ""


def frozen_names(model: nn.Module) -> set[str]:
    """What of a state dict training does not change: parameters without gradients, and matrices in few bits."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return frozen | {f"{name}.{part}" for name, module in quantized(model) for part in module.state_dict()}


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of this rank's parts. Memory comes from torch's allocators, which keep what is freed for the next time."""
    copies = {}
    for name, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        copies[name] = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
        copies[name].copy_(local.detach(), non_blocking=True)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copies


def _or_warn(act: Callable[..., Any], *arguments: Any) -> None:
    try:
        act(*arguments)
    except OSError as error:
        say(f"warning: {error}")


def _step(name: str) -> int:
    return int(name.rpartition("-")[2])


def _shape(size: torch.Size, dtype: torch.dtype) -> str:
    return f"{' x '.join(map(str, size)) or 'a number'} of {str(dtype).removeprefix('torch.')}"
