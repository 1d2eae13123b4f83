"""A rank that hangs, is stopped or is killed: the others name it and all end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fromzero.parallel.watch import HUNG, name_behind

LOOP = """
import sys, time, torch
import torch.distributed as dist
from fromzero.parallel import join_world
from fromzero.parallel.watch import Watch

with join_world("cpu", timeout=float(sys.argv[1])) as world, Watch(world) as watch:
    for step in range(1, 1000):
        watch.note(step, "data")
        if sys.argv[2] == "sleeps" and world.rank == 1 and step == 3:
            time.sleep(600)
        watch.note(step, "gradients")
        dist.all_reduce(torch.ones(1))
        if step == 3:
            print("step 3", flush=True)
        time.sleep(0.05)
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(folder: Path, *arguments: object) -> list[subprocess.Popen[str]]:
    """Three ranks without a launcher, which would end the others itself."""
    script = folder / "loop.py"
    script.write_text(LOOP)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "3", "OMP_NUM_THREADS": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    line = [sys.executable, str(script), *map(str, arguments)]
    return [subprocess.Popen(line, env={**os.environ, **where, "RANK": str(rank)}, **pipes) for rank in range(3)]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("sleeps", "the others wait for rank 1 (process {pid} on {host}) at step 3, where it reads the data"),
        (signal.SIGSTOP, "no answer any more from rank 1 (process {pid} on {host}) at step "),
        (signal.SIGKILL, "no answer any more from rank 1 (process {pid} on {host}) at step "),
    ],
)
def test_the_rank_that_hangs_is_named(fault: str | signal.Signals, sentence: str, tmp_path: Path) -> None:
    ranks = start(tmp_path, 2, fault)
    try:
        if isinstance(fault, signal.Signals):
            for rank in ranks:
                assert rank.stdout is not None
                rank.stdout.readline()
            ranks[1].send_signal(fault)
        left = [rank for rank in ranks if rank is not ranks[1] or fault == "sleeps"]
        said = [rank.communicate(timeout=90)[1] for rank in left]
        assert [rank.returncode for rank in left] == [HUNG] * len(left)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    lines = [line for text in said for line in text.splitlines() if line.startswith("fromzero: ")]
    assert len(lines) == 1, said
    assert sentence.format(pid=ranks[1].pid, host=socket.gethostname()) in lines[0]
    assert "Traceback" not in "".join(said)


def test_who_is_behind() -> None:
    def record(step: int, phase: int, beats: int) -> dict[str, object]:
        return {"step": step, "phase": phase, "beats": beats, "host": "h", "process": 7}

    before = [record(5, 1, 10), record(5, 0, 10), record(5, 1, 10)]
    later = [record(5, 1, 12), record(5, 0, 12), record(5, 1, 12)]
    assert (
        name_behind(before, later) == "the others wait for rank 1 (process 7 on h) at step 5, where it reads the data"
    )
    assert "no answer any more from rank 2" in name_behind(before, [*later[:2], record(5, 1, 10)])
    level = [record(5, 1, 12)] * 3
    assert name_behind(before, level) == "every rank waits at step 5, where it computes the gradients"
