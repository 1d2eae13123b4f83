"""The engine: one function over many items, side by side on this machine or on a Ray cluster, by Daft.

The same few lines make the plan for both; only the runner differs. Items and results are strings (JSON), so that they
can cross machines. On a cluster, every path in them has to mean the same thing on each machine.
"""

import atexit
import contextlib
import os
import socket
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

from fromzero.errors import UserError, missing_extra

Runner = Literal["native", "ray"]
Task = Callable[[str], str]
PATIENCE = 10.0  # seconds for a cluster to answer
SETTLE = 0.3
"""Seconds that Daft's threads get to end in, before Python does."""


def run(
    task: Task, items: Sequence[str], runner: Runner = "native", address: str = "", workers: int = 0
) -> Generator[str, None, None]:
    """task(item) for each item, in any order, as they are done; `task` is a function of an importable module.

    address: of a Ray cluster; without one, Ray is started on this machine. workers: processes; 0 takes one for each
    core. What a task raises ends the run. Raises UserError when Daft or Ray is missing, or Daft runs otherwise already.
    """
    if len(items) < 2 and runner == "native":  # not worth the start of a process
        yield from map(task, items)
        return
    daft = _daft(runner, address)
    worker = daft.cls(_Worker, max_concurrency=min(workers or _cores(runner), len(items)), use_process=True)(task)
    items_of = daft.from_pydict({"item": list(items)}).into_batches(1)
    rows = items_of.select(worker.run(daft.col("item")).alias("result")).iter_rows()
    with contextlib.closing(rows):  # an interrupted run has to end its processes now, not when Python ends
        for row in rows:
            yield row["result"]


class _Worker:
    """What each of the processes holds."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def run(self, item: str) -> str:
        return self.task(item)


# Daft tells its makers of each run unless told not to; its bars would stand beside ours.
_QUIET = {"DO_NOT_TRACK": "1", "DAFT_ANALYTICS_ENABLED": "0", "SCARF_NO_ANALYTICS": "1", "DAFT_PROGRESS_BAR": "0"}


_chosen: list[Runner] = []


def _daft(runner: Runner, address: str) -> Any:
    os.environ.update(_QUIET)
    try:
        import daft
    except ImportError as error:
        raise missing_extra("daft", "corpus") from error
    if runner == "ray":
        _start_ray(address)
    if not _chosen:  # Daft takes one runner in the life of a process
        daft.set_runner_ray() if runner == "ray" else daft.set_runner_native()
        _chosen.append(runner)
        atexit.register(time.sleep, SETTLE)  # a thread that still lets go of Python while it ends aborts the process
    if _chosen != [runner]:
        raise UserError(f"this process uses Daft with the {_chosen[0]} runner; start a new one for {runner}")
    return daft


def _start_ray(address: str) -> None:
    ray = _ray()
    if address:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        try:  # Ray itself asks for ten minutes
            socket.create_connection((host, int(port)), PATIENCE).close()
        except (OSError, ValueError) as error:
            raise UserError(f"engine_address {address!r}: no Ray cluster answers there ({error})") from error
    if not ray.is_initialized():
        ray.init(address or "local", log_to_driver=False, include_dashboard=None if address else False)


def _cores(runner: Runner) -> int:
    if runner == "ray":
        return int(_ray().cluster_resources().get("CPU", 1))
    return os.cpu_count() or 1


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "cluster") from error
    return ray
