"""Pipeline parallelism: ranks hold layers one after another, and micro-batches travel through them.

A model is cut into stages in place: a rank keeps the layers of its stages under their names and drops all others. The
first stage embeds, the last one norms and computes the loss. Only hidden states travel; what else a stage needs of a
batch (positions, documents, targets) every rank has, as all ranks of a pipeline load the same rows. In which order
micro-batches go forwards and back is up to torch's schedules: GPipe (Huang et al. 2019), 1F1B (Narayanan et al. 2019),
interleaved (Narayanan et al. 2021), zero bubble (Qi et al. 2023).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)

from fromzero.errors import UserError
from fromzero.model.block import Section
from fromzero.model.experts import mixtures
from fromzero.model.linear_loss import IGNORE
from fromzero.model.transformer import Transformer
from fromzero.parallel.config import ParallelConfig
from fromzero.parallel.fleet import Batch, Fleet
from fromzero.parallel.mesh import Mesh, local
from fromzero.parallel.world import World

_FIRST = ("token_embedding", "position_embedding", "type_embedding", "embedding_norm")
_SINGLE: dict[str, Any] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}
_LOOPED: dict[str, Any] = {"interleaved": ScheduleInterleaved1F1B, "zero_bubble": ScheduleInterleavedZeroBubble}


class Stage(nn.Module):
    """Some layers: hidden states from the stage before -> hidden states for the next, or on the last stage the loss."""

    def __init__(self, objective: nn.Module, index: int, count: int, total_mixtures: int) -> None:
        """objective: its model is still whole. total_mixtures: mixtures of experts in all stages."""
        super().__init__()
        model: Transformer = objective.model  # type: ignore[assignment]
        layers = len(model.blocks)
        self.first, self.last = index == 0, index == count - 1
        self.layers = range(layers * index // count, layers * (index + 1) // count)
        self.calls = (objective,)  # in a tuple, or its model would count as this module's
        self.names = [f"blocks.{layer}" for layer in self.layers]
        self.names += [*_FIRST] * self.first + last_parts(model) * self.last
        if self.last and not self.first and embeds_twice(model):
            self.names.append("token_embedding")
        held = [part for name in self.names if (part := _submodule(model, name)) is not None]
        self.held = nn.ModuleList(held)
        self.total_mixtures = total_mixtures
        self.factor = 1.0
        """Of the loss, for its gradients."""
        self.added: list[Tensor] = []
        """What this stage, where it is not the last, has added to the loss of each micro-batch, times the factor."""

    def forward(self, x: Tensor, **batch: Tensor) -> Tensor:
        """x: hidden states (B, T, D); the first stage takes anything. batch: see the objective."""
        objective: Any = self.calls[0]
        objective.model.section = Section(self.layers, None if self.first else x, self.last)
        y = objective.hidden(**batch)
        if self.last:
            y = objective.loss(y, **batch) * self.factor
        elif y._is_view():
            y = y.clone()  # the schedule detaches outputs in place, which a view does not allow
        losses = [loss for mixture in mixtures(self.held) for loss in mixture.losses.values()]
        if not losses or not objective.model.training:
            return y
        counted = (batch["targets_BT"] != IGNORE).sum()
        added = torch.stack(losses).sum() / self.total_mixtures * counted * self.factor
        if self.last:
            return y + added
        self.added.append(added.detach())
        return _AddLoss.apply(y, added)


class _AddLoss(torch.autograd.Function):
    """Hidden states as they are, through which a loss gets its gradient on a stage that ends with hidden states."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.ones((), device=grad.device)


class Pipeline(Fleet):
    """A fleet whose ranks hold different layers."""

    def __init__(self, objective: nn.Module, world: World, mesh: Mesh, config: ParallelConfig) -> None:
        """Cut the objective's model in place. Raises UserError when it has too few layers, or can't be cut."""
        super().__init__(objective, world, mesh)
        self.group, self.schedule = mesh["pipeline"].get_group(), config.schedule
        self.place, self.places = mesh["pipeline"].get_local_rank(), config.pipeline
        self.count = self.places * (config.stages if config.schedule in _LOOPED else 1)
        model: Any = objective.model
        _check(model, self.count)
        total = len(mixtures(model))
        stages = [Stage(objective, index, self.count, total) for index in range(self.count)]
        self.homes = {
            name: index % self.places for index, stage in reversed([*enumerate(stages)]) for name in stage.names
        }
        """On which rank of the pipeline each part of the model is, the first one for what two have."""
        self.stages = {i: stage for i, stage in enumerate(stages) if i % self.places == self.place}
        self.roots = list(self.stages.values())
        _drop(model, {name for stage in self.stages.values() for name in stage.names})
        self.twice = embeds_twice(self.blueprint) and self.place in (0, self.places - 1)
        self.draws = self.data_rank * self.places + self.place
        if self.twice and self.place > 0:
            self.copies = {"token_embedding.weight"}
        self._schedules: dict[tuple[int, ...], Any] = {}

    def gradients(self, batch: Batch, rows: int | None, count: float, scale: float = 1.0) -> float:
        """See Fleet. Raises UserError when the micro-batches are not as many as the schedule needs."""
        (whole,) = self.micro_batches(batch, None)
        targets_BT = whole["targets_BT"]
        micros = self._micro_batches(len(targets_BT), rows)
        for stage in self.stages.values():
            stage.factor, stage.added = scale / (count or 1), []
        losses: list[Tensor] = []
        schedule = self._scheduled(micros, len(targets_BT) // micros, targets_BT.shape[1])
        first = (targets_BT,) if 0 in self.stages else ()  # any tensor: the first stage takes what it needs by name
        schedule.step(*first, target=targets_BT, losses=losses, return_outputs=False, **whole)
        if self.twice:
            self._sum_copies()
        added = [loss for stage in self.stages.values() for loss in stage.added]
        return self.total(sum(map(float, losses + added)) / scale, "loss", "pipeline")

    def _micro_batches(self, rows: int, micro: int | None) -> int:
        count = rows // (micro or rows)
        step = self.places if self.schedule in _LOOPED else 1
        least = 1 if self.schedule == "gpipe" else self.places
        if rows % (micro or rows) or count % step or count < least:
            needed = f"a multiple of {step}" if step > 1 else f"at least {least}"
            raise UserError(
                f"train.micro_batch_size ({micro or rows}) makes {rows / (micro or rows):g} micro-batches of the "
                f"{rows} rows of a rank, but a pipeline of {self.places} ranks with the schedule {self.schedule} needs "
                f"{needed}; change train.micro_batch_size or train.batch_size"
            )
        return count

    def _scheduled(self, micros: int, rows: int, tokens: int) -> Any:
        """torch's schedule for so many micro-batches of so many rows and tokens."""
        key = (micros, rows, tokens)
        if key not in self._schedules:
            for stage in self.roots:
                if isinstance(stage, FSDPModule):  # many micro-batches are under way: weights stay until the step ends
                    stage.set_reshard_after_forward(False)
            model: Any = self.objective.model
            shape = (rows, tokens, self.blueprint.config.width)
            hidden = torch.empty(shape, dtype=model.compute_dtype, device="meta", requires_grad=True)
            loss = torch.empty((), device="meta", requires_grad=True)
            targets = torch.empty((rows, tokens), dtype=torch.int64, device="meta")
            stages = [
                PipelineStage(
                    stage,
                    index,
                    self.count,
                    self.world.device,
                    input_args=targets if stage.first else hidden,
                    output_args=loss if stage.last else hidden,
                    group=self.group,
                )
                for index, stage in self.stages.items()
            ]
            made = _SINGLE[self.schedule] if self.schedule in _SINGLE else _LOOPED[self.schedule]
            held: Any = stages[0] if self.schedule in _SINGLE else stages
            self._schedules[key] = made(held, micros, loss_fn=lambda loss, _: loss, scale_grads=False)
        return self._schedules[key]

    def _sum_copies(self) -> None:
        """Sum the gradients of the two token embeddings: each adds the same two numbers, so they stay equal."""
        weight = dict(self.named_parameters()).get("token_embedding.weight")
        if weight is None:  # it is frozen
            return
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        own = local(weight.grad)
        sent = own.contiguous()  # a copy, where it is not: the sum has to go to the gradient itself
        other = torch.empty_like(sent)
        peer = self.places - 1 - self.place
        ends = ((dist.isend, sent), (dist.irecv, other))
        operations = [dist.P2POp(act, tensor, group=self.group, group_peer=peer) for act, tensor in ends]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        own.add_(other)

    def to_first(self, name: str, value: Tensor | None) -> Tensor | None:
        """See Fleet; the ranks that stand beside the first one's pipeline send nothing."""
        home = next(place for part, place in self.homes.items() if name.startswith(f"{part}."))
        if home == 0 or 0 not in dist.get_process_group_ranks(self.group):
            return value
        if self.place == home:
            assert value is not None, f"{name} is not where it should be"
            dist.send(value.contiguous(), group=self.group, group_dst=0)
        elif self.world.first:
            like = self.blueprint.state_dict()[name]
            value = torch.empty(like.shape, dtype=like.dtype, device=self.world.device)
            dist.recv(value, group=self.group, group_src=home)
        return value


def embeds_twice(model: Any) -> bool:
    """Whether the last stage needs the token embedding too: as its output matrix, or to predict further tokens."""
    return model.config.tied or model.config.predict_ahead > 0


def last_parts(model: nn.Module) -> list[str]:
    """What is on the last stage: all that is neither a block nor before them."""
    return [name for name, _ in model.named_children() if name not in (*_FIRST, "blocks")]


def _check(model: Any, count: int) -> None:
    if not isinstance(model, Transformer) or model.relative_bias is not None:
        what = "relative positions" if isinstance(model, Transformer) else "an encoder and a decoder"
        raise UserError(f"parallel.pipeline can't cut a model with {what}; set it to 1")
    if len(model.blocks) < count:
        raise UserError(
            f"parallel.pipeline: {count} stages need at least {count} layers, but the model has {len(model.blocks)}; "
            "lower parallel.pipeline or parallel.stages"
        )


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    return getattr(model, name) if "." not in name else model.get_submodule(name)


def _drop(model: Any, kept: set[str]) -> None:
    """Take out of a model what is on other ranks; names of what is left stay."""
    for name in (*_FIRST, *last_parts(model)):
        if name not in kept:
            setattr(model, name, None)
    for layer in range(len(model.blocks)):
        if f"blocks.{layer}" not in kept:
            model.blocks[layer] = nn.Identity()
