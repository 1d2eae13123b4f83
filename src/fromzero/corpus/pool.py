"""Parsing in a child process: file after file, with a deadline for each answer.

The child works ahead of its caller by what the pipe between them holds. A thread kills it when it is past the deadline,
because not every system can wait for a pipe and the clock at once. A dead child costs the record it was at, and a fresh
one goes on with the next.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, cast

from fromzero.corpus.document import CRASHED, TIMED_OUT
from fromzero.corpus.files import SourceFile
from fromzero.corpus.worker import WorkSettings, read_frame, write_frame
from fromzero.errors import UserError
from fromzero.files import to_plain

MAX_DEATHS = 10
"""Children that may die over one file before the rest of it is given up."""
START_SECONDS = 600.0
"""Longest time until a child is ready, which takes a minute where nothing was compiled before."""
_TICK_SECONDS = 0.1
# One thread is enough for one document, and each thread's arena would count against the limit on address space.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}


class Parser:
    """A parsing process, started when it is needed and again when it died, and the deadline of what it is doing."""

    def __init__(self, settings: WorkSettings) -> None:
        limits = settings.read.limits
        self.settings, self.patience = settings, limits.parse_seconds
        # JSON escapes a character to 6 bytes at most; what is longer is not an answer but an attack
        self.longest = 6 * max(limits.document_bytes, limits.file_bytes) + (1 << 20)
        self.process: subprocess.Popen[bytes] | None = None
        self.deadline, self.reason, self.at_work = float("inf"), CRASHED, False

    def parse(self, files: Iterable[SourceFile]) -> Iterator[tuple[SourceFile, dict[str, Any] | None]]:
        """Each answer with its file, in file order; None after the last answer of a file.

        Raises UserError when a child can't be started, or says that a package is missing.
        """
        for file in files:
            for answer in self._answers(file):
                if "error" in answer:
                    raise UserError(answer["error"])
                yield dataclasses.replace(file, source=file.source + answer.pop("inside", "")), answer
            yield file, None

    def _answers(self, file: SourceFile) -> Iterator[dict[str, Any]]:
        """All answers about a file, through the deaths of children."""
        finished, reason = 0, ""  # reason: for which a child died over the last of the finished records
        for _ in range(MAX_DEATHS):
            died = ""
            try:
                for frame in self._frames({"path": str(file.path), "kind": file.kind, "skip": finished}):
                    finished = int(frame.pop("finished", finished))
                    if reason and "skipped" in frame:
                        yield {"reason": reason, "inside": str(frame["skipped"])}
                        reason = ""
                    elif "reason" in frame or "error" in frame:
                        yield frame
            except (OSError, ValueError, TypeError):
                died = self.stop()
            if reason:  # the way to the next record is what kills, or there is none
                yield {"reason": reason}
            if reason or not died:
                return
            finished, reason = finished + 1, died
        yield {"reason": f"{reason}: for the {MAX_DEATHS}th time in this file; the rest is given up"}

    def _frames(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What the child answers. Raises OSError, ValueError or TypeError when it dies; then `stop` says why."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        self.at_work = True
        write_frame(self.stdin, request)
        while "done" not in (frame := self._next(self.patience)):
            yield dict(frame)
        self.at_work = False

    def _start(self) -> None:
        self.stop()
        self.reason = CRASHED
        try:  # -P: a folder of documents with a file called json.py in it must not become part of the program
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fromzero.corpus.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | _ENVIRONMENT,
            )
        except OSError as error:
            raise UserError(f"a parsing process could not be started: {error}") from error
        self.stdin, self.stdout = cast(BinaryIO, self.process.stdin), cast(BinaryIO, self.process.stdout)
        threading.Thread(target=self._watch, args=(self.process,), daemon=True).start()
        write_frame(self.stdin, to_plain(self.settings))
        self._next(START_SECONDS)  # it is ready

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        while process.poll() is None:
            time.sleep(_TICK_SECONDS)
            if time.monotonic() > self.deadline:
                process.kill()

    def _next(self, patience: float) -> Any:
        self.deadline = time.monotonic() + patience
        frame = read_frame(self.stdout, self.longest)
        if frame is None or "died" in frame:
            self.reason = str(frame["died"]) if frame else CRASHED
            raise ValueError(self.reason)
        self.deadline = float("inf")
        return frame

    def stop(self) -> str:
        """End the child and forget its pipes. Returns the reason for which it could not go on."""
        reason = TIMED_OUT if time.monotonic() > self.deadline else self.reason
        self.deadline, self.at_work = float("inf"), False
        if self.process is not None:
            with contextlib.suppress(OSError), self.process:
                self.process.kill()
        return reason


_idle: list[Parser] = []  # a child takes a second to start


@contextlib.contextmanager
def parser(settings: WorkSettings) -> Iterator[Parser]:
    """A parser that was used with the same settings before, or a fresh one. Leaving it ends a child that is at work."""
    found = _idle.pop() if _idle else Parser(settings)
    if found.settings != settings:
        found.stop()
        found = Parser(settings)
    try:
        yield found
    finally:
        if found.at_work:
            found.stop()
        _idle.append(found)


def release() -> None:
    """End the children that wait for another use in this process."""
    while _idle:
        _idle.pop().stop()
