"""Batches for tuning without padding between: rows of several whole conversations, each of which sees only itself."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fromzero.dataset.bestfit import BestFitLoader
from fromzero.dataset.chats import NO_LOSS, check_shards

if TYPE_CHECKING:
    import torch


class PackedConversationLoader(BestFitLoader):
    """Deals rows of `context` places that are filled with whole conversations, with loss on what the assistant says.

    A conversation of n ids takes n - 1 places. Each comes once an epoch, in rows and an order that the seed draws; a
    batch may reach into the next epoch. Rows are the same for any number of processes; batch_size is that of all
    together. Raises UserError as ConversationLoader does.
    """

    def next_batch(self) -> "dict[str, torch.Tensor]":  # type: ignore[override]
        """This process's rows: ids_BT, targets_BT, documents_BT and positions_BT, (batch_size / world_size, context)
        int64 each: the number of the conversation within its row that a token is of, from 1, and its place there.

        Targets are NO_LOSS in padding, which counts as one conversation, and wherever the loss mask is not set.
        """
        import torch

        ids_BT, targets_BT = super().next_batch()
        documents_BT, positions_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT)
        for row, pieces in enumerate(self.dealt):
            silent = [~self.shards.mask(start + 1, stop + 1) for start, stop in pieces]
            silent.append(np.ones(self.context - sum(map(len, silent)), np.bool_))
            sizes = torch.tensor([len(piece) for piece in silent])
            targets_BT[row, torch.from_numpy(np.concatenate(silent))] = NO_LOSS
            documents_BT[row] = torch.arange(1, len(sizes) + 1).repeat_interleave(sizes)
            positions_BT[row] = torch.cat([torch.arange(size) for size in sizes.tolist()])
        return {"ids_BT": ids_BT, "targets_BT": targets_BT, "documents_BT": documents_BT, "positions_BT": positions_BT}

    def _check(self) -> None:
        check_shards(self.shards, np.diff(self.shards.boundaries), self.context)

    def _pieces(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[tuple[int, int]]:
        return list(zip(starts.tolist(), (stops - 1).tolist(), strict=True))
