"""The processes of a run: one on its own, or those that `torchrun` (or Slurm, through it) has started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from fromzero.console import console
from fromzero.device import DeviceName, pick_device


@dataclass(frozen=True)
class World:
    """This process among all."""

    device: torch.device
    rank: int = 0
    size: int = 1
    timeout: float = 600.0
    """Seconds that a rank waits for another before the run ends."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and speaks to the person."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The first rank's value, on all ranks; anything that pickles."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def largest(self, value: int) -> int:
        """The largest of the values of all ranks."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on all ranks; anything that pickles."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def join_world(device: DeviceName = "auto", timeout: float = 600.0) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone. Ranks other than the first are silent.

    timeout: see World; collectives wait twice as long, so that the watch, which can name the rank, speaks first.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    picked = pick_device(device)
    if size == 1 and not dist.is_initialized():
        yield World(picked)
        return
    if picked.type == "cuda":
        picked = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(picked)
    own = not dist.is_initialized()
    if own:
        backend = "cuda:nccl,cpu:gloo" if picked.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=2 * timeout))
    before, console.quiet = console.quiet, dist.get_rank() > 0
    try:
        yield World(picked, dist.get_rank(), dist.get_world_size(), timeout)
    finally:
        console.quiet = before
        if own:
            dist.destroy_process_group()
