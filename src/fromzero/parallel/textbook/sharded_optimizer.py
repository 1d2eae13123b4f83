"""An optimizer whose state is spread over ranks: ZeRO, stage 1 (Rajbhandari et al. 2020, section 5.1).

Adam keeps two numbers for each weight, and with data parallelism every rank keeps the same ones. Here all weights are
one long vector, cut in as many parts as there are ranks, and each rank steps its part alone:

    reduce-scatter  each rank gets the sum over ranks of its part of the gradient
    step            with state for that part only
    all-gather      each rank sends its new weights to all

That is what the all-reduce of plain data parallelism sends too (it is these two, one after the other), so the memory
is saved for nothing.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


class ShardedOptimizer:
    """Steps the parameters of any module, the same on every rank, by sums of gradients over ranks."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """make: an optimizer that treats each number on its own, as SGD and Adam do (and Muon doesn't)."""
        self.parameters, self.group = list(parameters), group
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        self.length = -(-sum(p.numel() for p in self.parameters) // ranks)
        self.weights = self._flat([p.detach() for p in self.parameters], ranks)
        for parameter, view in zip(self.parameters, self._views(), strict=True):
            parameter.data = view  # so that what is gathered into the vector is the weights
        self.part = nn.Parameter(self.weights[rank * self.length : (rank + 1) * self.length].clone())
        self.optimizer = make([self.part])

    @torch.no_grad()
    def step(self, max_norm: float = 0.0) -> float:
        """One update by the sums of all ranks' gradients, clipped to a global norm unless that is 0; the norm before.

        Clears the gradients.
        """
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.part.grad = torch.empty_like(self.part)
        ranks = dist.get_world_size(self.group)
        dist.reduce_scatter_tensor(self.part.grad, self._flat(gradients, ranks), group=self.group)
        square = self.part.grad.square().sum()
        dist.all_reduce(square, group=self.group)
        norm = float(square.sqrt())
        if 0 < max_norm < norm:
            self.part.grad.mul_(max_norm / norm)
        self.optimizer.step()
        dist.all_gather_into_tensor(self.weights, self.part.detach(), group=self.group)
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    def _flat(self, tensors: list[Tensor], ranks: int) -> Tensor:
        """All in one vector, with zeros at its end so that every rank's part is as long."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        return nn.functional.pad(flat, (0, ranks * self.length - flat.numel()))

    def _views(self) -> list[Tensor]:
        sizes = [p.numel() for p in self.parameters]
        pieces = self.weights[: sum(sizes)].split(sizes)
        return [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]
