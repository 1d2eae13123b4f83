"""Batches of whole documents: each goes into the row that it fills best, and the rest of the row is padding.

A document of n ids takes n places: the targets are its ids one further on, and at its end the <|endoftext|> that begins
the next. So over an epoch every id is an input exactly once, and what follows it is its target exactly once. Documents
longer than a row are cut into full rows and a rest, which then is fitted in like a document (Ding et al. 2024, "Fewer
truncations improve language modeling", section 3.1).

Documents are taken in a random order, so many at a time, and only these are fitted to each other: what is in memory
does not grow with their number.
"""

import bisect
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fromzero.console import say
from fromzero.dataset.chats import NO_LOSS
from fromzero.dataset.permutation import Permutation
from fromzero.dataset.shards import TokenShards
from fromzero.dataset.windows import WindowLoader

if TYPE_CHECKING:
    import torch

POOL = 4096
"""Documents that are fitted to each other, about."""

Row = list[tuple[int, int]]
"""Start and stop of each piece."""


class BestFitLoader(WindowLoader):
    """Deals rows of `context` places that are made of whole documents as far as they go.

    Every row begins with a document or with the rest of a long one. Which rows there are and their order is drawn by
    the seed, for each epoch anew, and is the same for any number of processes. Raises UserError as WindowLoader does.
    """

    def __init__(self, shards: TokenShards, context: int, batch_size: int, seed: int = 0, *share: int) -> None:
        super().__init__(shards, context, batch_size, seed, *share)
        self.pools = max(1, round(shards.documents / POOL))
        self._epoch, self._pool, self._row = 0, 0, 0  # the next row to deal
        self._packed = functools.lru_cache(2)(self._pack)
        rows, cut, documents = self._packed(0, 0)
        filled = sum(stop - start for row in rows for start, stop in row) / (len(rows) * context)
        say(f"best fit: {1 - filled:.1%} of places are padding, {cut / documents:.1%} of documents are cut")

    @property
    def epoch(self) -> int:
        """Whole passes over the documents so far."""
        return self._epoch

    def next_batch(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """This process's rows of the next batch: ids and targets, (batch_size / world_size, context) int64 each.

        Targets are NO_LOSS in padding, whose ids are all <|endoftext|>.
        """
        import torch

        rows = [self._next_row() for _ in range(self.batch_size)][self.rank :: self.world_size]
        ids = np.full((len(rows), self.context), self.shards.end_of_text, np.int64)
        targets = np.full_like(ids, NO_LOSS)
        for row, pieces in enumerate(rows):
            place = 0
            for start, stop in pieces:
                end = place + stop - start
                found = np.append(self.shards[start : stop + 1], self.shards.end_of_text)  # behind the last of all
                ids[row, place:end], targets[row, place:end] = found[: stop - start], found[1 : stop - start + 1]
                place = end
        self.dealt = rows
        self.position += self.batch_size
        return torch.from_numpy(ids), torch.from_numpy(targets)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as JSON can hold it. It does not depend on batch_size or the number of processes."""
        return super().state_dict() | {"pool": self._pool, "row": self._row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises UserError when it is for other tokens, another context or another seed."""
        super().load_state_dict(state)
        self._epoch, self._pool, self._row = (int(state[name]) for name in ("epoch", "pool", "row"))

    def _next_row(self) -> Row:
        row = self._packed(self._epoch, self._pool)[0][self._row]
        self._row += 1
        if self._row == len(self._packed(self._epoch, self._pool)[0]):
            self._pool, self._row = self._pool + 1, 0
        if self._pool == self.pools:
            self._epoch, self._pool = self._epoch + 1, 0
        return row

    def _pack(self, epoch: int, pool: int) -> tuple[list[Row], int, int]:
        """The rows of a pool in the order in which they are dealt; how many documents are cut, of how many."""
        count, bounds = self.shards.documents, self.shards.boundaries
        places = np.arange(pool * count // self.pools, (pool + 1) * count // self.pools)
        documents = Permutation(count, self.seed, epoch)(places)
        starts, stops = bounds[documents], bounds[documents + 1]
        rows = best_fit(self._pieces(starts, stops), self.context)
        order = np.random.default_rng([self.seed, epoch, pool]).permutation(len(rows))
        cut = int((stops - starts > self.context).sum())
        return [rows[row] for row in order.tolist()], cut, len(documents)

    def _pieces(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[tuple[int, int]]:
        """What is fitted into rows, of documents that begin and end there."""
        return [
            (start, min(start + self.context, stop))
            for first, stop in zip(starts.tolist(), stops.tolist(), strict=True)
            for start in range(first, stop, self.context)
        ]


def best_fit(pieces: Sequence[tuple[int, int]], size: int) -> list[Row]:
    """Rows of at most `size` places: the longest piece first, each into the row that it leaves the least room in.

    Best-fit-decreasing, which takes at most 11/9 of the fewest rows possible and a few (Johnson et al. 1974).
    """
    rows: list[Row] = []
    open_rows: list[tuple[int, int]] = []  # (room, number), sorted
    for start, stop in sorted(pieces, key=lambda piece: piece[0] - piece[1]):
        at = bisect.bisect_left(open_rows, (stop - start, 0))
        if at < len(open_rows):
            room, row = open_rows.pop(at)
        else:
            room, row = size, len(rows)
            rows.append([])
        rows[row].append((start, stop))
        if room > stop - start:
            bisect.insort(open_rows, (room - (stop - start), row))
    return rows
