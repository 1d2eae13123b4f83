"""Batches for tuning: a conversation a row, with loss on what the assistant says."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fromzero.dataset.position import check_share, check_state
from fromzero.dataset.shards import TokenShards
from fromzero.errors import UserError

if TYPE_CHECKING:
    import torch

NO_LOSS = -100  # the target that torch.nn.functional.cross_entropy passes over
POOL = 64  # batches among which conversations are sorted by length


class ConversationLoader:
    """Deals conversations, padded to the longest of the batch, those of similar length together.

    Each epoch, the conversations are shuffled by the seed, sorted by length within pools of POOL batches, cut into
    batches, and the batches are shuffled. Each comes once an epoch; what is missing in the last batch is filled with
    rows that carry no loss. Batches are the same for any number of processes: batch_size is that of all together, and
    rank r takes rows r, r + world_size, ...

    Raises UserError when the shards have no loss mask or no conversation, or one that is longer than the context.
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
        self.shards, self.batch_size, self.seed = shards, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.lengths = np.diff(shards.boundaries)
        check_shards(shards, self.lengths, context)
        self.batches = -(-len(self.lengths) // batch_size)
        """Batches in an epoch."""
        self.position = 0
        """Batches dealt since the first epoch began."""
        self.loss_tokens = 0
        """Targets that carry loss in all batches dealt so far, over all processes."""
        self._order_epoch, self._order = -1, np.zeros((0, 0), np.int64)

    @property
    def epoch(self) -> int:
        """Whole passes over the conversations so far."""
        return self.position // self.batches

    def next_batch(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """This process's rows of the next batch: ids and targets, (batch_size / world_size, T) int64 each.

        T is the longest conversation of the whole batch, less one. Targets are NO_LOSS in padding and wherever the loss
        mask is not set.
        """
        import torch

        batch = self._batch(self.position)
        self.position += 1
        real = batch[batch >= 0]
        self.loss_tokens += sum(int(self._row(i)[1][1:].sum()) for i in real)
        mine = batch[self.rank :: self.world_size]
        width = int(self.lengths[real].max()) - 1
        ids = np.full((len(mine), width), self.shards.end_of_text, np.int64)
        targets = np.full((len(mine), width), NO_LOSS, np.int64)
        for row, conversation in enumerate(mine):
            if conversation >= 0:
                tokens, mask = self._row(conversation)
                ids[row, : len(tokens) - 1] = tokens[:-1]
                targets[row, : len(tokens) - 1] = np.where(mask[1:], tokens[1:].astype(np.int64), NO_LOSS)
        return torch.from_numpy(ids), torch.from_numpy(targets)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as JSON can hold it. It does not depend on the number of processes."""
        return {
            "position": self.position,
            "epoch": self.epoch,
            "loss_tokens": self.loss_tokens,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "fingerprint": self.shards.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises UserError when it is for other tokens, another batch_size or seed."""
        names = {"fingerprint": "tokens with the fingerprint", "batch_size": "batch_size", "seed": "seed"}
        check_state(self.state_dict(), state, names)
        self.position, self.loss_tokens = int(state["position"]), int(state["loss_tokens"])

    def _row(self, conversation: int) -> tuple[np.ndarray, np.ndarray]:
        start, stop = map(int, self.shards.boundaries[conversation : conversation + 2])
        return self.shards[start:stop], self.shards.mask(start, stop)

    def _batch(self, position: int) -> np.ndarray:
        """The conversations of a batch, (batch_size,) int64, -1 for a row that is filled."""
        epoch, batch = divmod(position, self.batches)
        if epoch != self._order_epoch:
            self._order_epoch, self._order = epoch, self._draw(epoch)
        return self._order[batch]

    def _draw(self, epoch: int) -> np.ndarray:
        """All batches of an epoch, (batches, batch_size)."""
        return like_lengths(self.lengths, self.batch_size, [self.seed, epoch])


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
