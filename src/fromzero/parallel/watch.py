"""A rank that hangs is found by time-out and named, and the run ends, also where a collective blocks for ever.

Each rank has a thread that tells the store of the process group every few seconds where the rank's loop is. When the
own loop has not moved for the time-out, the thread reads what the others tell: a rank that has fallen silent (killed,
stopped, its machine gone) or that is behind all others is the one they wait for. The first to find out leaves its
sentence in the store and says it; all end with exit code HUNG, without waiting for anything.
"""

import json
import os
import socket
import sys
import threading
import time
from typing import Any

import torch.distributed as dist

from fromzero.console import printable
from fromzero.parallel.world import World

HUNG = 124
"""Exit code of a run that a hung or lost rank has ended, as that of timeout(1)."""
PHASES = {
    "data": "reads the data",
    "gradients": "computes the gradients",
    "update": "updates the weights",
    "look": "looks at held-out data",
    "save": "saves a checkpoint",
}
"""Of a step, in their order."""
_PHASES = list(PHASES.values())
_SIGNS = ("gloo", "Connection closed by peer", "ProcessGroup", "NCCL")


class Watch:
    """Around a training loop, which calls `note`; in a run of one process, nothing.

    An exception by which a collective says that another rank is gone ends the process in the same way.
    """

    def __init__(self, world: World) -> None:
        self.world, self.step, self.phase, self.beats = world, 0, 0, 0
        self.moved = time.monotonic()
        self.interval = min(5.0, world.timeout / 8)
        self._ended = threading.Event()
        self._ending = threading.Lock()

    def note(self, step: int, phase: str) -> None:
        """The loop has come to a phase (see PHASES) of a step, counted from 1."""
        self.step, self.phase, self.moved = step, list(PHASES).index(phase), time.monotonic()

    def __enter__(self) -> "Watch":
        if self.world.size > 1:
            # Of its own: the loop may hold the other connection while it waits for somebody.
            self._store = dist.PrefixStore("watch", dist.distributed_c10d._get_default_store().clone())  # type: ignore[attr-defined]
            self.moved = time.monotonic()
            self._tell()
            dist.barrier()
            threading.Thread(target=self._run, name="watch", daemon=True).start()
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if self.world.size > 1 and _is_of_collectives(error):
            try:
                self._end("the connection broke")
            except RuntimeError:
                _exit(f"a rank is gone, and the store of the run too: {error}")
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self.interval):
            try:
                self._tell()
                late = time.monotonic() - self.moved > self.world.timeout
                if late or self._store.check(["verdict"]):
                    self._end(f"no step for {self.world.timeout:g} seconds")
            except RuntimeError:
                _exit("the process that keeps the store of the run does not answer")

    def _tell(self) -> None:
        self.beats += 1
        told = {"step": self.step, "phase": self.phase, "beats": self.beats, "host": socket.gethostname()}
        self._store.set(str(self.world.rank), json.dumps(told | {"process": os.getpid()}))

    def _records(self) -> list[dict[str, Any]]:
        return [json.loads(self._store.get(str(rank))) for rank in range(self.world.size)]

    def _end(self, cause: str) -> None:
        """Say who is behind, unless another rank has said it, and end the process; not when the loop goes on again."""
        with self._ending:
            moved, sentence = self.moved, ""
            if not self._store.check(["verdict"]):
                own = f"{self._behind()} ({cause}, as rank {self.world.rank} saw it)"
                if self._ended.is_set() or self.moved != moved:
                    return
                first = self._store.compare_set("verdict", "", own).decode() == own
                sentence = own if first else ""
            if self.world.first:  # it may keep the store, in which the others still have to look
                time.sleep(2 * self.interval)
            _exit(sentence)

    def _behind(self) -> str:
        before, beats = self._records(), 3 * self.interval
        until = time.monotonic() + beats
        while time.monotonic() < until:  # the own thread may be the one that waits here
            time.sleep(self.interval / 2)
            self._tell()
        return name_behind(before, self._records())


def name_behind(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> str:
    """Who is behind, from what ranks told at two times between which each should have told anew."""
    silent = [rank for rank, (old, new) in enumerate(zip(before, now, strict=True)) if old["beats"] == new["beats"]]
    if silent:
        return f"no answer any more from {_places(silent, now)}"
    places = [(record["step"], record["phase"]) for record in now]
    last = [rank for rank, place in enumerate(places) if place == min(places)]
    if len(last) == len(now):
        return f"every rank waits at step {now[0]['step']}, where it {_PHASES[now[0]['phase']]}"
    return f"the others wait for {_places(last, now)}"


def _places(ranks: list[int], records: list[dict[str, Any]]) -> str:
    texts = []
    for rank in ranks:
        record = records[rank]
        who = f"rank {rank} (process {record['process']} on {record['host']})"
        texts.append(f"{who} at step {record['step']}, where it {_PHASES[record['phase']]}")
    return ", ".join(texts)


def _exit(sentence: str) -> None:
    if sentence:
        advice = "run the same command again to go on from the last checkpoint"
        print(f"fromzero: {printable(sentence)}; {advice}", file=sys.stderr, flush=True)
    os._exit(HUNG)


def _is_of_collectives(error: BaseException | None) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
