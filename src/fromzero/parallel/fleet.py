"""An objective on its devices: the gradients of a batch, sums over ranks, the global norm."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fromzero.parallel.world import World

Batch = Mapping[str, Tensor]
"""Tensors by the names of the objective's arguments, all with the rows of the batch first; `targets_BT` among them."""


class Fleet:
    """What a trainer needs of one or many devices."""

    def __init__(self, objective: nn.Module, world: World) -> None:
        """One device; `apply.parallelize` makes those of many."""
        self.objective, self.world = objective, world
        self.data_rank, self.data_size = 0, 1
        """Whose rows of a batch this rank computes, of how many."""
        self.parts: list[nn.Module] = [objective.get_submodule("model")]
        """Modules whose parameters this rank holds (several stages of a pipeline)."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This rank's parameters under their names in the model; DTensors where ranks share them."""
        for part in self.parts:
            yield from part.named_parameters()

    def gradients(self, batch: Batch, rows: int | None, count: int, scale: float = 1.0) -> float:
        """Loss of the batch divided by `count`, over all ranks, and its gradient times `scale` in the parameters.

        batch: this rank's rows. rows: of a micro-batch; None takes all at once. count: targets of the whole batch.
        """
        total = 0.0
        for micro in self._micro_batches(batch, rows):
            loss = self.objective(**micro) / max(1, count)
            (loss * scale).backward()
            total += float(loss.detach())
        return self.sum(total)

    def sum(self, value: float) -> float:
        """Sum over the ranks that see different data."""
        return value

    def clip(self, max_norm: float) -> float:
        """Scale all gradients so that their global norm is at most `max_norm` (0: never); the norm before that."""
        gradients = [p.grad for _, p in self.named_parameters() if p.grad is not None]
        if not gradients:
            return 0.0
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)).float()))
        if max_norm > 0 and math.isfinite(norm) and norm > max_norm:
            torch._foreach_mul_(gradients, max_norm / norm)
        return norm

    def balance_experts(self) -> None:
        """Move the routers' biases, by the load over all ranks."""
        for part in self.parts:
            part.balance_experts()  # type: ignore[operator]

    def whole_model(self) -> nn.Module | None:
        """The model with all its weights, on the first rank; None on the others. All ranks must call it."""
        return self.parts[0]

    def _micro_batches(self, batch: Batch, rows: int | None) -> Iterator[dict[str, Tensor]]:
        size = len(batch["targets_BT"])
        for start in range(0, size, rows or size):
            stop = start + (rows or size)
            yield {name: tensor[start:stop].to(self.world.device) for name, tensor in batch.items()}
