"""Programs of strangers, such as a model, run with little that they could do harm with.

On Linux the child of `confine` has no network, no files but Python's own and a folder in memory, no other processes,
and limits of time and memory. What is not contained: faults of the kernel, and what the processor lets leak. Where
users may not make namespaces (many containers) it can read what this user can, environments of processes too, but write
nothing. On other systems nothing runs.
"""

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fromzero.console import say
from fromzero.errors import UserError

_CHILD = Path(__file__).with_name("confine.py")


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    seconds: float = 5.0
    """Of time, and of the processor."""
    memory: int = 512 << 20
    """Bytes of address space."""
    disk: int = 16 << 20
    """Bytes in its folder, and of its longest file."""
    output: int = 1 << 16
    """Bytes that it prints; one that prints more is ended."""


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    how: Literal["done", "failed", "too slow", "too much output"]
    output: str
    """What it printed, errors too."""


def run_program(program: str, limits: Limits | None = None) -> Ran:
    """Run Python, of the standard library alone. Raises UserError where it can't be contained."""
    limits, namespaces, filtered = limits or Limits(), contained("namespaces"), contained("filter")
    if not filtered:
        raise UserError("programs can't be contained on this system; run them on Linux")
    return _run(program, limits, namespaces, filtered)


@cache
def contained(how: Literal["namespaces", "filter"]) -> bool:
    """Whether this system lets a user do that, by trying; says so once where it does not."""
    if sys.platform != "linux":
        return False
    ran = _run("print(5)", Limits(60.0), how == "namespaces", how == "filter")
    if ran.how != "done":
        say(f"programs run without {how} here: {ran.output.strip()[-200:]}")
    return ran.how == "done"


def _run(program: str, limits: Limits, namespaces: bool, filtered: bool) -> Ran:
    seconds = math.ceil(limits.seconds)
    most = {"AS": limits.memory, "CPU": seconds, "FSIZE": limits.disk, "NOFILE": 32, "NPROC": 1 << 10, "CORE": 0}
    with tempfile.TemporaryDirectory() as folder:
        settings = {"folder": folder, "namespaces": namespaces, "filter": filtered, "disk": limits.disk, "limits": most}
        Path(folder, "program.py").write_text(program, encoding="utf-8", errors="replace")
        line = [sys.executable, "-I", "-S", "-X", "utf8", str(_CHILD), json.dumps(settings)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(line, **pipes, env={"PYTHONHASHSEED": "0"}, cwd=folder, start_new_session=True)
        try:
            return _watch(process, limits)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever it left behind
            process.wait()


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> Ran:
    assert process.stdout
    output, deadline = bytearray(), time.monotonic() + limits.seconds
    while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(process.stdout.fileno(), 1 << 16)
        output += piece
        if len(output) > limits.output:
            return Ran("too much output", output[: limits.output].decode(errors="replace"))
        if not piece:
            break
    text = output.decode(errors="replace")
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Ran("too slow", text)
    return Ran("done" if code == 0 else "too slow" if code == -signal.SIGXCPU else "failed", text)
