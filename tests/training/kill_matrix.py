"""What is left when a run is killed at any operation on files while a checkpoint is written and an old one deleted.

A run of six steps has a checkpoint after each two, and keeps one. A child is killed with SIGKILL at the n-th operation
of the second checkpoint (writes: half of what is written arrives), for every n; then the run is started again.
`python -m tests.training.kill_matrix` prints the table.
"""

import dataclasses
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fromzero.console import console
from fromzero.device import matmul_flops
from fromzero.files import digest_of
from fromzero.model import ModelConfig, Transformer
from fromzero.training import TrainConfig, Trainer
from fromzero.training.checkpoint import list_checkpoints

CONFIG = TrainConfig(
    steps=6, batch_size=2, learning_rate=1e-2, warmup_steps=2, validate_every=6, checkpoint_every=2,
    keep_checkpoints=1, log_every=1, device="cpu", dtype="float32",
)  # fmt: skip
SHAPE = ModelConfig(vocab_size=64, context=8, layers=1, width=16, heads=2, dropout=0.1)
FILES = ("model-00000.safetensors", "optimizer-00000.safetensors", "random-00000.json", ".state.json.tmp")
BEFORE_THE_NAME = [
    "mkdir .unfinished",
    *(f"{act} .unfinished/{name}" for name in FILES for act in ("create", "half of", "fsync")),
    "replace .unfinished/.state.json.tmp",
    "fsync .unfinished",
    "rename .unfinished",
]
AFTER_THE_NAME = [
    "fsync .",
    "rename step-00000002",
    *(f"delete file {n} of .discarded" for n in (1, 2, 3, 4)),
    "rmdir .discarded",
]


@dataclasses.dataclass(frozen=True)
class Row:
    """Of a kill right before an operation, or in the midst of a write."""

    operation: str
    signal: int
    newest: int
    """Step of the newest whole checkpoint that was left."""
    same_bits: bool
    """Whether the run that was started again ended with the weights of one that was never cut off."""
    left: list[str]
    """What is in the folder of checkpoints at its end."""


class Batches:
    """Batches drawn by their position."""

    def __init__(self) -> None:
        self.position = 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(self.position)
        self.position += 1
        ids = torch.randint(64, (CONFIG.batch_size, SHAPE.context + 1), generator=draw)
        return ids[:, :-1], ids[:, 1:]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Operations:
    """Names the operations on files below a folder that make the second checkpoint, and dies at one of them."""

    def __init__(self, folder: Path, die_at: int | None) -> None:
        self.folder, self.die_at, self.names, self.named, self.counts = folder, die_at, list[str](), 0, False
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync"):
            setattr(os, name, self._watched(name, getattr(os, name)))
        self._open = io.open
        io.open = self._opened  # type: ignore[assignment]

    def happens(self, act: str, path: Path, half: Callable[[], Any] = lambda: None) -> None:
        if not path.is_relative_to(self.folder):
            return
        name = path.relative_to(self.folder).as_posix()
        if (act, name) == ("mkdir", ".unfinished"):
            self.counts = self.named == 1
        self.named += (act, name) == ("rename", ".unfinished")
        if not self.counts:
            return
        if act == "unlink":  # in the order of the directory, which is any
            act, name = "delete file", f"{sum(n.startswith('delete') for n in self.names) + 1} of {path.parent.name}"
        self.names.append(f"{act} {name}")
        if len(self.names) - 1 == self.die_at:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    def _watched(self, act: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(first: Any, *rest: Any, **options: Any) -> Any:
            within = options.get("dir_fd")
            place = f"/proc/self/fd/{first if act == 'fsync' else within}"
            path = Path(os.readlink(place)) if act == "fsync" or within is not None else Path(first)
            self.happens(act, path if act == "fsync" or within is None else path / first)
            return function(first, *rest, **options)

        return watched

    def _opened(self, path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if "w" not in mode or not isinstance(path, os.PathLike):
            return self._open(path, mode, *rest, **options)
        self.happens("create", Path(path))
        file: Any = self._open(path, mode, *rest, **options)
        write, pieces = file.write, 0

        def half_write(piece: Any) -> None:
            write(piece[: len(piece) // 2])
            file.flush()

        def watched(piece: Any) -> Any:
            nonlocal pieces
            pieces += 1
            if pieces == (2 if str(path).endswith("safetensors") else 1):  # of a tensor, not of the header
                self.happens("half of", Path(path), lambda: half_write(piece))
            return write(piece)

        file.write = watched
        return file


def run(folder: Path, prepare: Callable[[Trainer], Any] = lambda trainer: None) -> str:
    """Train, going on from what is there; the digest of the weights."""
    trainer = Trainer(Transformer(SHAPE, seed=0), Batches(), CONFIG, folder, lambda model, step: {})
    prepare(trainer)
    trainer.fit()
    return digest_of({name: tensor.tolist() for name, tensor in trainer.model.state_dict().items()})


def matrix() -> list[Row]:
    """A row for each operation."""
    with TemporaryDirectory() as name:
        place = Path(name)
        straight = in_child(lambda: run(place / "straight"))[1]
        names = in_child(lambda: operations(place / "watched"))[1]
        return [row(place / str(n), n, operation, straight) for n, operation in enumerate(names)]


def operations(folder: Path) -> list[str]:
    """The names of all operations of the second checkpoint."""
    watch = Operations(folder / "checkpoints", None)
    run(folder)
    return watch.names


def row(folder: Path, number: int, operation: str, straight: str) -> Row:
    """Kill a run at one operation, and start it again."""

    def killed() -> None:
        Operations(folder / "checkpoints", number)
        run(folder)

    died, _ = in_child(killed)
    checkpoints = list_checkpoints(folder / "checkpoints")
    newest = int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0
    _, digest = in_child(lambda: run(folder))
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return Row(operation, died, newest, digest == straight, left)


def in_child(function: Callable[[], Any]) -> tuple[int, Any]:
    """Run a function in a fork of this process: the signal that ended it, and what it returned."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, json.dumps(function()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(told or b"null")


def main() -> None:
    """Print the table, or with --json what a test reads."""
    torch.set_num_threads(1)
    console.quiet = True
    matmul_flops(torch.float32, "cpu", 1024)  # once, not in each child
    rows = matrix()
    if sys.argv[1:] == ["--json"]:
        print(json.dumps([dataclasses.asdict(row) for row in rows]))
        return
    print("| killed at | newest whole checkpoint | run started again ends with the same bits |\n|---|---|---|")
    for row in rows:
        print(f"| {row.operation} | step {row.newest} | {'yes' if row.same_bits else 'NO'} |")


if __name__ == "__main__":
    main()
