"""NEFTune (Jain et al. 2023): in training, noise is added to embedded tokens, so that answers are less like those seen.

It is uniform within +-alpha / sqrt(T D), for rows of T tokens with D channels. It is drawn for each row by the seed,
the step and the number of the row in the whole batch: micro-batches, ranks and resumed runs change nothing about it.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fromzero.parallel.fleet import Batch
from fromzero.training.objective import NextToken


class NoisyNextToken(NextToken):
    """The next token's loss, of tokens with noise; `alpha` 0 adds none."""

    def __init__(self, model: Any, alpha: float, seed: int, ahead_weight: float = 0.3) -> None:
        super().__init__(model, ahead_weight=ahead_weight)
        self.alpha, self.seed = alpha, seed

    def prepare(self, ids_BT: Tensor, targets_BT: Tensor, step: int) -> Batch:
        return self.complete(super().prepare(ids_BT, targets_BT, step), step)

    def complete(self, batch: Batch, step: int) -> Batch:
        if not self.alpha:
            return batch
        rows = (self.rank + row * self.ranks for row in range(len(batch["ids_BT"])))
        seeds = [np.random.default_rng([self.seed, step, row]).integers(2**62) for row in rows]
        return {**batch, "seed_B": torch.tensor(seeds)}

    def hidden(self, **batch: Tensor) -> Tensor:
        seed_B = batch.pop("seed_B", None)
        if seed_B is None or not self.training or self.model.token_embedding is None:  # a later stage of a pipeline
            return super().hidden(**batch)

        def add(module: nn.Module, given: Any, x_BTD: Tensor) -> Tensor:
            return x_BTD + noise(seed_B, x_BTD.shape[1], x_BTD.shape[2], self.alpha).to(x_BTD)

        handle = self.model.token_embedding.register_forward_hook(add)
        try:
            return super().hidden(**batch)
        finally:
            handle.remove()

    def loss(self, x_BTD: Tensor, **batch: Tensor) -> Tensor:
        batch.pop("seed_B", None)
        return super().loss(x_BTD, **batch)

    def measure(self, model: Any, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """What else than its loss is to be known of the whole model, on held-out ids and targets."""
        return {}


def noise(seed_B: Tensor, length: int, width: int, alpha: float) -> Tensor:
    """Uniform within +-alpha / sqrt(length width), (B, length, width) in fp32 on the CPU; each row by its seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seed_B.tolist()]
    noise_BTD = torch.stack([torch.rand(length, width, generator=generator) for generator in generators])
    return noise_BTD.mul_(2).sub_(1).mul_(alpha / math.sqrt(length * width))
