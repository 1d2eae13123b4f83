"""Several processes for a test: a function that runs on every rank of a gloo group, on this machine."""

import multiprocessing
import pickle
import queue
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

# A server that has imported torch once; ranks are forks of it, so that starting one takes no seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed.tensor", "torch.distributed.fsdp", "fromzero.parallel"])


def run_ranks(size: int, function: Callable[..., Any], *arguments: Any, seconds: float = 120) -> list[Any]:
    """What function(*arguments) returns on each of `size` ranks; it and its arguments have to pickle.

    An exception on a rank is raised here with its traceback, and so is a time-out.
    """
    results: Any = _CONTEXT.Queue()
    with TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        processes = [
            _CONTEXT.Process(target=_rank, args=(rank, size, store, results, function, arguments), daemon=True)
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        try:
            return _collect(results, size, time.monotonic() + seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(results: Any, size: int, deadline: float) -> list[Any]:
    found: dict[int, Any] = {}
    while len(found) < size:
        try:
            rank, value, error = results.get(timeout=max(0.1, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"ranks {sorted(set(range(size)) - set(found))} did not answer") from None
        if error:
            raise AssertionError(f"rank {rank} failed:\n{error}")
        found[rank] = pickle.loads(value)
    return [found[rank] for rank in range(size)]


def _rank(
    rank: int, size: int, store: str, results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
        )
        value = function(*arguments)
        dist.barrier()
        # As bytes: tensors would be handed over through this process, which ends.
        results.put((rank, pickle.dumps(value), ""))
    except BaseException:
        results.put((rank, b"", traceback.format_exc()))
    finally:
        results.close()
        results.join_thread()
        if dist.is_initialized():
            dist.destroy_process_group()
