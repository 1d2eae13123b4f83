"""Batches of texts and their classes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fromzero.dataset.chats import NO_LOSS, RowLoader
from fromzero.dataset.pairs import pad
from fromzero.files import digest_of


class LabelledLoader(RowLoader):
    """Deals texts, each once an epoch; what the last batch lacks are texts without a class. See RowLoader."""

    def __init__(
        self, rows: Sequence[Sequence[int]], classes_N: Tensor, batch_size: int, seed: int, rank: int, ranks: int
    ) -> None:
        """rows: ids of each text. batch_size: of all ranks. Raises UserError when it is not a multiple of them."""
        lengths = np.array([len(row) for row in rows])
        super().__init__(lengths, digest_of(len(rows), int(lengths.sum())), batch_size, seed, rank, ranks)
        self.rows, self.classes_N = rows, classes_N

    def next_batch(self) -> dict[str, Tensor]:
        """ids_BT, keep_BT (what is no padding) and targets_BT, the classes (B,); T is the same on all ranks."""
        batch = self.next_rows()
        chosen = np.where(batch < 0, batch.max(), batch)
        ids, keep = pad([np.asarray(self.rows[i], np.int64) for i in chosen], 0)
        classes_B = torch.where(torch.from_numpy(batch) < 0, NO_LOSS, self.classes_N[chosen])
        dealt = {"ids_BT": torch.from_numpy(ids), "keep_BT": torch.from_numpy(keep), "targets_BT": classes_B}
        return {name: tensor[self.mine] for name, tensor in dealt.items()}
