"""The same tasks run on this machine and on a Ray cluster, and what stops them is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fromzero.corpus.engine import Runner, run
from fromzero.errors import UserError

TASKS = """
import os, signal
from pathlib import Path
def double(item):
    return f"{2 * int(item)} {os.getpid()}"
def die_once(item):
    mark = Path(os.environ["MARK"])
    if item == "3" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item
"""
DRIVER = """
import sys, tasks
from fromzero.corpus.engine import run
for result in run(getattr(tasks, sys.argv[1]), [str(i) for i in range(6)], sys.argv[2], workers=2):
    print(result)
"""


def drive(folder: Path, task: str, runner: Runner) -> subprocess.CompletedProcess[str]:
    """A process of its own, because Daft keeps the runner that it began with."""
    (folder / "tasks.py").write_text(TASKS)
    (folder / "driver.py").write_text(DRIVER)
    line = [sys.executable, str(folder / "driver.py"), task, runner]
    return subprocess.run(
        line, env=os.environ | {"PYTHONPATH": str(folder), "MARK": str(folder / "died")}, capture_output=True, text=True
    )


@pytest.mark.parametrize("runner", ["native", "ray"])
def test_every_item_is_done_once_by_as_many_processes_as_asked(tmp_path: Path, runner: Runner) -> None:
    done = drive(tmp_path, "double", runner)
    assert done.returncode == 0, done.stderr[-2000:]
    results, processes = zip(*(line.split() for line in done.stdout.splitlines()), strict=True)
    assert sorted(map(int, results)) == [0, 2, 4, 6, 8, 10]
    assert 1 <= len(set(processes)) <= 2


def test_a_killed_worker_ends_the_run_after_what_was_done(tmp_path: Path) -> None:
    first, second = (drive(tmp_path, "die_once", "native") for _ in range(2))
    assert first.returncode == 1
    assert "RuntimeError" in first.stderr
    assert sorted(second.stdout.split()) == ["0", "1", "2", "3", "4", "5"]


def test_one_item_needs_no_other_process() -> None:
    assert list(run(str.upper, ["a"])) == ["A"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_a_cluster_that_does_not_answer_is_told(address: str) -> None:
    with pytest.raises(UserError, match="no Ray cluster answers there"):
        list(run(str.upper, ["a", "b"], "ray", address))
