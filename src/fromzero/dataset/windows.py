"""Batches for pretraining: windows of the flat sequence, each once an epoch, in a random order."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fromzero.dataset.permutation import Permutation
from fromzero.dataset.position import check_share, check_state
from fromzero.dataset.shards import TokenShards
from fromzero.errors import UserError

if TYPE_CHECKING:
    import torch


class WindowLoader:
    """Deals windows of `context` ids and, as targets, the same one id further on.

    Window i of the sequence s is x = s[iT : iT+T] with y = s[iT+1 : iT+T+1]; T is the context. Each epoch has an order
    of its own, drawn by the seed. The position counts windows over all processes, so the stream of windows is the same
    for any number of them: batch_size is that of all processes together, and rank r takes rows r, r + world_size, ...

    Raises UserError when there are fewer windows than rows in a batch, or the rows can't be dealt evenly.
    """

    def __init__(
        self,
        shards: TokenShards,
        context: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_share(batch_size, context, rank, world_size)
        self.shards, self.context, self.batch_size = shards, context, batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.windows = max(0, (len(shards) - 1) // context)
        """Windows in an epoch."""
        self.position = 0
        """Windows dealt since the first epoch began, over all processes."""
        self.dealt: Any = []
        """Where in the sequence the pieces of each row of this process's last batch are: (start, stop) of each."""
        self._check()

    def _check(self) -> None:
        if self.windows < self.batch_size:
            raise UserError(
                f"{self.shards.folder} has {len(self.shards)} {self.shards.split} tokens, but a batch of "
                f"{self.batch_size} windows of {self.context} needs {self.batch_size * self.context + 1}; lower "
                "batch_size or context, or add documents"
            )

    @property
    def epoch(self) -> int:
        """Whole passes over the windows so far."""
        return self.position // self.windows

    def next_batch(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """This process's rows of the next batch: ids and targets, (batch_size / world_size, context) int64 each."""
        import torch

        starts = self.find(self.position + np.arange(self.rank, self.batch_size, self.world_size))
        ids = torch.from_numpy(self.read(starts))
        self.dealt = [[(start, start + self.context)] for start in starts.tolist()]
        self.position += self.batch_size
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def close(self) -> None:
        """Nothing is to be ended."""

    def documents(self, dealt: Any = None) -> list[list[str]]:
        """The documents of each row of this process's last batch, or of one that had this in `dealt`."""
        rows = [
            [n for start, stop in row for n in self._numbers(start, stop)]
            for row in (self.dealt if dealt is None else dealt)
        ]
        names = self.shards.names({n for row in rows for n in row})
        return [[names[n] for n in row] for row in rows]

    def _numbers(self, start: int, stop: int) -> range:
        """Of the documents that have ids between the two places."""
        bounds = self.shards.boundaries
        return range(int(np.searchsorted(bounds, start, "right")) - 1, int(np.searchsorted(bounds, stop)))

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as JSON can hold it. It does not depend on batch_size or the number of processes."""
        return {
            "position": self.position,
            "epoch": self.epoch,
            "seed": self.seed,
            "context": self.context,
            "fingerprint": self.shards.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises UserError when it is for other tokens, another context or another seed."""
        names = {"fingerprint": "tokens with the fingerprint", "context": "context", "seed": "seed"}
        check_state(self.state_dict(), state, names)
        self.position = int(state["position"])

    def find(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the windows at some places of the endless stream begin, maybe of several epochs."""
        epochs, indices = np.divmod(places, self.windows)
        windows = np.empty_like(indices)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            windows[now] = Permutation(self.windows, self.seed, int(epoch))(indices[now])
        return windows * self.context

    def read(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows that begin there, (starts, context + 1)."""
        size = self.context + 1
        return np.stack([self.shards[start : start + size] for start in starts.tolist()]).astype(np.int64)
