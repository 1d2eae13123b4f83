"""Parsing in child processes: one child for each thread, results in file order, memory bounded by look-ahead.

A thread takes the next file, sends it to its child and puts what comes back into that file's queue; the caller drains
the queues in file order. The queues are short and only a few files are in flight, so a slow consumer holds the
children back, and the order does not depend on how many there are. One watchdog kills a child that is past its
deadline; a dead child costs the record it was at, and a fresh one goes on with the next.
"""

import contextlib
import dataclasses
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from fromzero.artifact import to_plain
from fromzero.corpus.document import CRASHED, TIMED_OUT
from fromzero.corpus.files import SourceFile
from fromzero.corpus.worker import WorkSettings, read_frame, write_frame
from fromzero.errors import UserError

QUEUE_FRAMES = 4
FILES_AHEAD = 4
"""Files in flight for each worker."""
MAX_DEATHS = 10
"""Children that may die over one file before the rest of it is given up."""
_TICK_SECONDS = 0.1
_Answers = queue.Queue[dict[str, Any] | None]
# One thread is enough for one document, and each thread's arena would count against the limit on address space.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}


class _Child:
    """One parsing process and the deadline of what it is doing."""

    def __init__(self, settings: WorkSettings) -> None:
        limits = settings.read.limits
        self.patience = limits.parse_seconds
        # JSON escapes a character to 6 bytes at most; what is longer is not an answer but an attack
        self.longest = 6 * max(limits.document_bytes, limits.file_bytes) + (1 << 20)
        self.deadline = float("inf")
        self.timed_out = False
        self.finished, self.died = 0, cast(str | None, None)
        self.made_for = settings
        self.settings: WorkSettings | None = settings  # until they are sent
        # -P: a folder of documents with a file called json.py in it must not become part of the program
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fromzero.corpus.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT,
        )
        self.stdin, self.stdout = cast(BinaryIO, self.process.stdin), cast(BinaryIO, self.process.stdout)

    def parse(self, file: SourceFile, skip: int, reason: str | None) -> Iterator[dict[str, Any]]:
        """The answers about a file's records after the first `skip`; over the last of those a child died for `reason`.

        Afterwards `died` is the reason if this one died too, over the record after `finished`. It is None when there is
        no use in going on: the file is finished, or the way to the next record is what kills.
        """
        self.finished, self.died = skip, None
        try:
            if self.settings is not None:
                write_frame(self.stdin, to_plain(self.settings))
                self.settings = None
            write_frame(self.stdin, {"path": str(file.path), "kind": file.kind, "skip": skip})
            while not (frame := self._next()).get("done"):
                self.finished = int(frame.pop("finished", self.finished))
                if reason is not None and "skipped" in frame:
                    yield {"reason": reason, "inside": str(frame["skipped"])}
                    reason = None
                elif "reason" in frame or "error" in frame:
                    yield frame
        except (OSError, ValueError, TypeError, AttributeError):
            self.died = TIMED_OUT if self.timed_out else self.died or CRASHED
            self.stop()
        if reason is not None:
            yield {"reason": reason}
            self.died = None

    def _next(self) -> dict[str, Any]:
        self.deadline = time.monotonic() + self.patience
        answer = read_frame(self.stdout, self.longest)
        self.deadline = float("inf")
        if answer is None or "died" in answer:
            self.died = answer and str(answer["died"])
            raise ValueError("the child ended")
        return dict(answer)

    def check(self) -> None:
        """Kill the child if it is past its deadline."""
        if time.monotonic() > self.deadline:
            self.timed_out = True
            self.process.kill()

    @property
    def alive(self) -> bool:
        """Whether it can take another file."""
        return not self.stdin.closed and self.process.poll() is None

    def stop(self) -> None:
        """End the child and forget its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


_parked: list[_Child] = []  # idle ones of pools that are finished: a child takes a second to start


def release() -> None:
    """End the children that wait for another pool in this process."""
    while _parked:
        _parked.pop().stop()


class Pool:
    """Parses files in `workers` children. Use as a context manager: leaving it ends every child that is at work.

    Children that have nothing left to do are used again by the next pool with the same settings, until `release`.
    """

    def __init__(self, settings: WorkSettings, workers: int) -> None:
        self.settings, self.workers = settings, workers
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.children: list[_Child] = []
        self.threads: list[threading.Thread] = []
        self.order: queue.Queue[_Answers] = queue.Queue()
        self.ahead = threading.Semaphore(FILES_AHEAD * workers)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopping.set()
        with self.lock:
            for child in self.children:
                child.process.kill()  # its thread sees the end of the pipe, and ends too
        for thread in self.threads:
            thread.join()

    def parse(self, files: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, dict[str, Any] | None]]:
        """Each answer with its file, in file order; None after the last answer of a file.

        Raises UserError when a child says that a package is missing.
        """
        numbers = iter(range(len(files)))
        for _ in range(min(self.workers, len(files))):
            self._start(lambda: self._work(files, numbers))
        self._start(self._watch)
        for file in files:
            answers = self.order.get()
            while (answer := answers.get()) is not None:
                if "error" in answer:
                    raise UserError(answer["error"])
                yield dataclasses.replace(file, source=file.source + answer.pop("inside", "")), answer
            yield file, None
            self.ahead.release()

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _work(self, files: Sequence[SourceFile], numbers: Iterator[int]) -> None:
        """One thread: files in order, each parsed by this thread's child."""
        child: _Child | None = None
        while self._wait_for(lambda: self.ahead.acquire(timeout=_TICK_SECONDS)):
            answers: _Answers = queue.Queue(QUEUE_FRAMES)
            with self.lock:  # one lock for both, so that the queues stand in the order of the files
                if (number := next(numbers, None)) is None:
                    break
                self.order.put(answers)
            try:
                child = self._read(child, files[number], answers)
            except OSError as error:
                self._put(answers, {"error": f"a parsing process could not be started: {error}"})
            self._put(answers, None)
        if child is not None:
            with self.lock:
                self.children.remove(child)
            _parked.append(child)

    def _read(self, child: _Child | None, file: SourceFile, answers: _Answers) -> _Child:
        """Put all answers about a file into its queue, through the deaths of children. Returns the last child."""
        skip, reason = 0, cast(str | None, None)
        for _ in range(MAX_DEATHS):
            child = self._usable(child)
            for answer in child.parse(file, skip, reason):
                self._put(answers, answer)
            if child.died is None:
                return child
            skip, reason = child.finished + 1, child.died
        self._put(answers, {"reason": f"{reason}: for the {MAX_DEATHS}th time in this file; the rest is given up"})
        return cast(_Child, child)

    def _usable(self, child: _Child | None) -> _Child:
        """The same child if it can take another file, else a fresh one."""
        if child is not None and child.alive:
            return child
        fresh = self._parked() or _Child(self.settings)
        with self.lock:
            self.children = [c for c in self.children if c is not child] + [fresh]
            if self.stopping.is_set():
                fresh.process.kill()
        return fresh

    def _parked(self) -> _Child | None:
        while _parked:
            child = _parked.pop()
            if child.alive and child.made_for == self.settings:
                return child
            child.stop()
        return None

    def _put(self, answers: _Answers, answer: dict[str, Any] | None) -> None:
        def put() -> bool:
            with contextlib.suppress(queue.Full):
                answers.put(answer, timeout=_TICK_SECONDS)
                return True
            return False

        self._wait_for(put)

    def _wait_for(self, attempt: Callable[[], bool]) -> bool:
        """Repeat an attempt that waits a little, until it succeeds or the pool is stopping."""
        while not self.stopping.is_set():
            if attempt():
                return True
        return False

    def _watch(self) -> None:
        while not self.stopping.wait(_TICK_SECONDS):
            with self.lock:
                for child in self.children:
                    child.check()
