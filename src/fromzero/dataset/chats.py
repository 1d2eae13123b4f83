"""Batches for tuning: a conversation a row, with loss on what the assistant says."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fromzero.dataset.position import check_share, check_state
from fromzero.dataset.shards import TokenShards
from fromzero.errors import UserError

if TYPE_CHECKING:
    import torch

NO_LOSS = -100  # the target that torch.nn.functional.cross_entropy passes over
POOL = 64  # batches among which rows are sorted by length


class RowLoader:
    """Which rows of a set there are in a batch: those of similar length together.

    Each epoch, `like_lengths` deals all rows anew, each once; what a batch lacks is -1. Batches are the same for any
    number of processes: batch_size is that of all together, and rank r takes rows r, r + world_size, ...
    """

    def __init__(
        self, lengths: np.ndarray, fingerprint: str, batch_size: int, seed: int, rank: int, world_size: int
    ) -> None:
        """lengths: of all rows. fingerprint: of what is in them. Raises UserError when they can't be dealt evenly."""
        check_share(batch_size, 1, rank, world_size)
        self.lengths, self.fingerprint, self.batch_size, self.seed = lengths, fingerprint, batch_size, seed
        self.mine = slice(rank, None, world_size)
        """Which rows of a batch are this process's."""
        self.batches = -(-len(lengths) // batch_size)
        """Batches in an epoch."""
        self.position = 0
        """Batches dealt since the first epoch began."""
        self._order = functools.lru_cache(1)(lambda epoch: like_lengths(lengths, batch_size, [seed, epoch]))

    @property
    def epoch(self) -> int:
        """Whole passes over the rows so far."""
        return self.position // self.batches

    def next_rows(self) -> np.ndarray:
        """The numbers of all rows of the next batch, (batch_size,) int64, -1 for one that is filled."""
        epoch, batch = divmod(self.position, self.batches)
        self.position += 1
        return self._order(epoch)[batch]

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as JSON can hold it. It does not depend on the number of processes."""
        names = ("position", "epoch", "seed", "batch_size", "fingerprint")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises UserError when it is for other rows, another batch_size or seed."""
        names = {"fingerprint": "rows with the fingerprint", "batch_size": "batch_size", "seed": "seed"}
        check_state(self.state_dict(), state, names)
        self.position = int(state["position"])


class ConversationLoader(RowLoader):
    """Deals conversations, padded to the longest of the batch; rows that are filled carry no loss. See RowLoader.

    Raises UserError when the shards have no loss mask or no conversation, or one that is longer than the context.
    """

    def __init__(
        self, shards: TokenShards, context: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(np.diff(shards.boundaries), shards.fingerprint, batch_size, seed, rank, world_size)
        check_shards(shards, self.lengths, context)
        self.shards = shards

    def next_batch(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """This process's rows of the next batch: ids and targets, (batch_size / world_size, T) int64 each.

        T is the longest conversation of the whole batch, less one. Targets are NO_LOSS in padding and wherever the loss
        mask is not set.
        """
        import torch

        batch = self.next_rows()
        mine = batch[self.mine]
        ids = np.full((len(mine), int(self.lengths[batch[batch >= 0]].max()) - 1), self.shards.end_of_text, np.int64)
        targets = np.full_like(ids, NO_LOSS)
        for row in np.flatnonzero(mine >= 0):
            tokens, mask = self._row(mine[row])
            ids[row, : len(tokens) - 1] = tokens[:-1]
            targets[row, : len(tokens) - 1] = np.where(mask[1:], tokens[1:].astype(np.int64), NO_LOSS)
        return torch.from_numpy(ids), torch.from_numpy(targets)

    def _row(self, conversation: int) -> tuple[np.ndarray, np.ndarray]:
        start, stop = map(int, self.shards.boundaries[conversation : conversation + 2])
        return self.shards[start:stop], self.shards.mask(start, stop)


def like_lengths(lengths: np.ndarray, batch_size: int, seed: list[int]) -> np.ndarray:
    """Rows dealt at random to batches of like length, (batches, batch_size) int64; -1 fills what is missing."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths))
    pool = POOL * batch_size
    pools = [order[start : start + pool] for start in range(0, len(order), pool)]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    filled = np.full(-(-len(order) // batch_size) * batch_size, -1, np.int64)
    filled[: len(order)] = order
    return random.permutation(filled.reshape(-1, batch_size))


def check_shards(shards: TokenShards, lengths: np.ndarray, context: int) -> None:
    """Raise UserError for shards without loss mask or conversation, or with one that is longer than the context."""
    if not shards.masked:
        raise UserError(f"{shards.folder} has no loss mask; make tokens from conversations for that")
    if not len(lengths):
        raise UserError(f"{shards.folder} has no conversation in {shards.split}; add some and build it again")
    if lengths.max() - 1 > context:
        raise UserError(
            f"{shards.folder} has a conversation of {lengths.max()} tokens, but the model's context is {context}; "
            f"build it again with context {context}"
        )
