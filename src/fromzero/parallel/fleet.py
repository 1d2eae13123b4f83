"""An objective on its devices: the gradients of a batch, sums over ranks, the global norm."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fromzero.model.experts import mixtures
from fromzero.parallel import norm
from fromzero.parallel.mesh import Mesh
from fromzero.parallel.world import World

Batch = Mapping[str, Tensor]
"""Tensors by the names of the objective's arguments, all with the rows of the batch first; `targets_BT` among them."""

Micro = dict[str, Tensor]
"""The same of a micro-batch."""


class Fleet:
    """What a trainer needs of one or many devices."""

    def __init__(self, objective: nn.Module, world: World, mesh: Mesh | None = None) -> None:
        """One device, or the ranks of a mesh, over which `apply.parallelize` spreads the objective's model."""
        self.objective, self.world, self.mesh = objective, world, mesh
        self.data_rank = 0 if mesh is None else mesh["data"].get_local_rank()
        self.data_size = 1 if mesh is None else mesh["data"].size()
        """Whose rows of a batch this rank computes, of how many."""
        self.draws = self.data_rank
        """Added to the seed: ranks with other rows, or other layers, drop out other channels."""
        model = objective.get_submodule("model")
        self.parts: list[nn.Module] = [model]
        """Modules whose parameters this rank holds, under their names in the model (several stages of a pipeline)."""
        self.roots: list[nn.Module] = [objective]
        """Modules that are called; data parallelism goes around each."""
        self.splits: list[Callable[[Micro], Micro]] = []
        """What takes this rank's part of a micro-batch (of its tokens, with context parallelism)."""
        self.synchronize: Callable[[bool], Any] = lambda last: None
        """Told before each micro-batch whether it is the last, whose backward pass sums gradients over ranks."""
        self.copies: set[str] = set()
        """Parameters that another stage has too and counts in the norm (a tied embedding on the last stage)."""
        self.blueprint: Any = model if mesh is None else without_weights(model)
        """The whole model as it was, on many devices without its weights: for its config and counts."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This rank's parameters that are learned, by their names in the model; DTensors where ranks share them."""
        for part in self.parts:
            yield from ((name, parameter) for name, parameter in part.named_parameters() if parameter.requires_grad)

    def gradients(self, batch: Batch, rows: int | None, count: float, scale: float = 1.0) -> float:
        """Loss of the batch divided by `count`, over all ranks, and its gradient times `scale` in the parameters.

        batch: this rank's rows. rows: of a micro-batch; None takes all at once. count: what the objective counts in
        the whole batch, such as its targets.
        """
        losses = []
        micros = list(self.micro_batches(batch, rows))
        for index, micro in enumerate(micros):
            self.synchronize(index == len(micros) - 1)
            loss = self.roots[0](**micro) / (count or 1)
            (loss * scale).backward()
            losses.append(loss.detach())
        return self.total(sum(map(float, losses)), "loss")  # on a GPU, not before all are under way

    def micro_batches(self, batch: Batch, rows: int | None) -> Iterator[Micro]:
        """This rank's parts of micro-batches of so many rows, on its device."""
        size = len(batch["targets_BT"])
        for start in range(0, size, rows or size):
            stop = start + (rows or size)
            micro = {name: tensor[start:stop].to(self.world.device) for name, tensor in batch.items()}
            for split in self.splits:
                micro = split(micro)
            yield micro

    def sum(self, value: float) -> float:
        """Sum over the ranks that see different rows."""
        return self.total(value, "data")

    def total(self, value: float, *dimensions: str) -> float:
        """Sum over the ranks of dimensions of the mesh, in double precision."""
        if self.mesh is None:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.world.device)
        for dimension in dimensions:
            dist.all_reduce(tensor, group=self.mesh[dimension].get_group())
        return float(tensor)

    def clip(self, max_norm: float) -> float:
        """Scale all gradients so that their global norm is at most `max_norm` (0: never); the norm before that."""
        return norm.clip_gradients(self.named_parameters(), max_norm, self.mesh, self.copies)

    def balance_experts(self) -> None:
        """Move the routers' biases, by the load over all ranks."""
        biased = [m for part in self.parts for m in mixtures(part) if m.router.bias is not None]
        loads = [mixture.load_E for mixture in biased if mixture.load_E is not None]
        if self.mesh is not None and loads:
            total = torch.stack(loads)
            dist.all_reduce(total, group=self.mesh["loss"].get_group())
            for mixture, load_E in zip(biased, total, strict=True):
                mixture.load_E = load_E
        for part in self.parts:
            part.balance_experts()  # type: ignore[operator]

    def clear(self) -> None:
        """As before the first micro-batch of a step: no gradients, and no loads of experts."""
        for _, parameter in self.named_parameters():
            parameter.grad = None
        for mixture in [m for part in self.parts for m in mixtures(part)]:
            mixture.load_E = None

    def whole_model(self) -> Any | None:
        """The model with all its weights, on the first rank; None on the others. All ranks must call it."""
        held = {name: tensor for part in self.parts for name, tensor in part.state_dict().items()}
        names = list(self.blueprint.state_dict())
        if list(held) == names and not any(isinstance(tensor, DTensor) for tensor in held.values()):
            return self.parts[0] if self.world.first else None  # every rank has it
        whole = self._empty_model() if self.world.first else None
        values = {} if whole is None else whole.state_dict()
        for name in names:  # one after the other: no rank holds two in full
            value = self.to_first(name, full(held[name]) if name in held else None)
            if whole is not None:
                assert value is not None, f"{name} is on no rank"
                values[name].copy_(value)
        return whole

    def _empty_model(self) -> Any:
        """A model to fill in, beside this rank's part where there is room for it, else in the computer's memory."""
        model = copy.deepcopy(self.blueprint)
        model.compute_dtype = self.parts[0].compute_dtype
        device = self.world.device
        if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < 1.2 * _bytes(model):
            device = torch.device("cpu")
        return model.to_empty(device=device)

    def to_first(self, name: str, value: Tensor | None) -> Tensor | None:
        """A tensor of the model, or None on ranks that don't have it; on the first rank it returns the tensor."""
        return value


def full(tensor: Tensor) -> Tensor:
    """All of a tensor that ranks may share; all of them must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def without_weights(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are on the meta device: names and shapes, no numbers."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)
