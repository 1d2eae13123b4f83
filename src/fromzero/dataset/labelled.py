"""Batches of texts and their classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromzero.dataset.chats import NO_LOSS, like_lengths
from fromzero.dataset.pairs import pad
from fromzero.dataset.position import check_share, check_state


class LabelledLoader:
    """Deals texts of like length together, each once an epoch; what the last batch lacks are texts without a class.

    Rank r of n has rows r, r + n, ... of a batch, so batches are the same for any number of ranks.
    """

    def __init__(
        self, rows: Sequence[Sequence[int]], classes_N: Tensor, batch_size: int, seed: int, rank: int, ranks: int
    ) -> None:
        """rows: ids of each text. batch_size: of all ranks. Raises UserError when it is not a multiple of them."""
        check_share(batch_size, 1, rank, ranks, "train.batch_size")
        self.rows, self.classes_N, self.batch_size, self.seed = rows, classes_N, batch_size, seed
        self.lengths, self.share = np.array([len(row) for row in rows]), slice(rank, None, ranks)
        self.position = 0
        """Batches dealt."""

    def next_batch(self) -> dict[str, Tensor]:
        """ids_BT, keep_BT (what is no padding) and targets_BT, the classes (B,); T is the same on all ranks."""
        epoch, number = divmod(self.position, -(-len(self.rows) // self.batch_size))
        self.position += 1
        batch = like_lengths(self.lengths, self.batch_size, [self.seed, epoch])[number]
        chosen = np.where(batch < 0, batch.max(), batch)
        ids, keep = pad([np.asarray(self.rows[i], np.int64) for i in chosen], 0)
        classes_B = torch.where(torch.from_numpy(batch) < 0, NO_LOSS, self.classes_N[chosen])
        dealt = {"ids_BT": torch.from_numpy(ids), "keep_BT": torch.from_numpy(keep), "targets_BT": classes_B}
        return {name: tensor[self.share] for name, tensor in dealt.items()}

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; the same on any number of ranks."""
        return {"position": self.position, "rows": len(self.rows), "batch": self.batch_size, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises UserError when it is for other rows, another batch size or seed."""
        check_state(self.state_dict(), state, {"rows": "rows", "batch": "train.batch_size", "seed": "seed"})
        self.position = int(state["position"])
