"""Counting pre-tokens: what a trainer learns from, in memory that grows with the different ones, not with the text."""

import functools
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromzero.kernels import count as kernel
from fromzero.kernels.compiling import first_use
from fromzero.tokenizer.splitter import Splitter, as_array, no_progress
from fromzero.tokenizer.text import batches, utf8

BATCH_BYTES = 16 << 20  # text that a worker counts at a time
MAX_BYTES = 400_000_000  # of different pre-tokens; learning takes many times that


class Pretokens:
    """A table of pre-tokens, how often each occurs, in the order of first appearance.

    When the different ones have more than `max_bytes`, those that occurred once so far are dropped, and counted in
    `dropped`: what is rare in the first gigabytes of a text decides none of its merges. (A count may then be too low,
    by less than the number of times that this happened.)
    """

    def __init__(self, counts: Mapping[bytes, int] | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self.dropped, self.total_bytes = max_bytes, 0, 0
        self.letters, self._used, self._count = np.empty(0, np.uint8), 0, 0
        self._entries, self.slots = _table(0)
        if counts:
            data, ends = as_array(b"".join(counts)), np.cumsum([len(word) for word in counts], dtype=np.int64)
            entries = kernel.count_cut(data, ends, *_table(len(counts)))
            entries[:, 3] = [*counts.values()]
            self.add(data, entries)

    def __len__(self) -> int:
        return self._count

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Each pre-token and its count."""
        letters = self.letters.tobytes()
        for start, size, _, count in self.entries.tolist():
            yield letters[start : start + size], count

    def add(self, data: NDArray[np.uint8], entries: NDArray[np.int64]) -> None:
        """Add the entries of a text, as `kernels.count` makes them."""
        self._reserve(len(entries), int(entries[:, 1].sum()))
        self._used, self._count = kernel.add_entries(
            data, entries, self.letters, self._used, self._entries, self._count, self.slots
        )
        self.total_bytes += int((entries[:, 1] * entries[:, 3]).sum())
        while self._used > self.max_bytes:
            self._drop_rare()

    @property
    def entries(self) -> NDArray[np.int64]:
        """As in `kernels.count`."""
        return self._entries[: self._count]

    def longer_than_one(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Those of two bytes and more, as a single byte has no pair: their letters joined, where each starts in them
        and the last ends, and their counts."""
        entries = self.entries
        long = entries[:, 1] > 1
        letters = self.letters[: self._used][np.repeat(long, entries[:, 1])]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(entries[long, 1])])
        return letters, starts, entries[long, 3].copy()

    def _reserve(self, more: int, letters: int) -> None:
        """Room for more entries and letters. NumPy asks for large pages of memory, which a kernel does not."""
        if self._used + letters > len(self.letters):
            kept, self.letters = self.letters, np.empty((self._used + letters) * 3 // 2, np.uint8)
            self.letters[: self._used] = kept[: self._used]
        if self._count + more > len(self._entries):
            kept_entries, (self._entries, self.slots) = self.entries, _table((self._count + more) * 2)
            self._entries[: self._count] = kept_entries
            kernel.index(self._entries, self._count, self.slots)

    def _drop_rare(self) -> None:
        entries = self.entries
        kept = entries[:, 3] > max(1, entries[:, 3].min())
        self.letters, entries = self.letters[: self._used][np.repeat(kept, entries[:, 1])], entries[kept]
        entries[:, 0] = np.cumsum(entries[:, 1]) - entries[:, 1]
        self.dropped += self._count - len(entries)
        self._used, self._count = len(self.letters), len(entries)
        self._entries, (_, self.slots) = entries, _table(len(entries))
        kernel.index(entries, len(entries), self.slots)


def count_pretokens(
    texts: Iterable[str], splitter: Splitter, workers: int | None = None, max_bytes: int = MAX_BYTES
) -> Pretokens:
    """The pre-tokens of all texts, by threads, or by processes where the pattern needs the `regex` module.

    workers: by default as many as there are cores; the result is the same for any number of them. Raises UserError for
    a lone surrogate.
    """
    pretokens, workers = Pretokens(max_bytes=max_bytes), workers or os.cpu_count() or 1
    waiting = batches(map(utf8, texts), BATCH_BYTES)
    if splitter.single is not None:
        with first_use("the tokenizer's trainer"), ThreadPoolExecutor(workers) as threads:
            _run(threads, workers, functools.partial(_count_compiled, splitter), waiting, pretokens)
        return pretokens
    pretokens.add(*_count_by_regex(splitter, next(waiting, [])))
    second = next(waiting, None)
    if second is not None:  # new processes are worth their start
        with ProcessPoolExecutor(workers, get_context("spawn")) as processes:
            task = functools.partial(_count_by_regex, splitter)
            _run(processes, workers, task, itertools.chain([second], waiting), pretokens)
    return pretokens


def _run(
    pool: Executor, workers: int, task: Callable[[list[bytes]], Any], batches: Iterable[list[bytes]], into: Pretokens
) -> None:
    """Add the results in the order of the batches, with only a few of these in memory."""
    running: deque[Future[Any]] = deque()
    for batch in batches:
        running.append(pool.submit(task, batch))
        if len(running) > workers:
            into.add(*running.popleft().result())
    while running:
        into.add(*running.popleft().result())


def _count_compiled(splitter: Splitter, batch: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    automaton = splitter.single
    assert automaton is not None
    data, ends = as_array(b"".join(batch)), np.cumsum([len(text) for text in batch], dtype=np.int64)
    entries, slots = _table(max(1 << 16, len(data) // 16))
    entries, ahead = kernel.count_text(data, ends, automaton.classes, automaton.table, automaton.width, entries, slots)
    if not ahead:
        raise no_progress(splitter.patterns[0])
    return data, entries.copy()


def _count_by_regex(splitter: Splitter, batch: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    starts = np.cumsum([0, *map(len, batch)])
    ends = [start + splitter.cuts(text) for start, text in zip(starts.tolist(), batch, strict=False)]
    cut = np.concatenate([np.empty(0, np.int64), *ends])
    data = as_array(b"".join(batch))
    return data, kernel.count_cut(data, cut, *_table(len(cut)))


def _table(entries: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Room for so many entries, and empty slots."""
    return np.empty((entries, 4), np.int64), np.zeros(1 << max(4, (2 * entries).bit_length()), np.int64)
