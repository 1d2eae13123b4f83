"""Tensor parallelism: ranks share each matrix, and work on the same tokens together (Shoeybi et al. 2019, Megatron-LM).

A sublayer (attention, feed-forward) is a region: every rank has all its tokens, but only some of its heads or hidden
channels. The matrices that go in are cut by rows, those that come out by columns, and the sum over ranks of what they
give is the output. Between regions every rank has all tokens too or, with sequence parallelism (Korthikanti et al.
2022), its part of the sequence. Embedding and output matrix are cut along the vocabulary.

`plan` says of each parameter, by its name, how it is held. Held it is as a DTensor, under its old name; a module sees
the plain tensor that its rank computes with, so layers and kernels are those of one device. What all ranks hold in full
but see only a part of the work of (a norm on a part of the sequence, a router in a region) sums its gradients over
ranks on the way back. Dropout draws the same numbers on all ranks, so for each part of a sequence.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from fromzero.errors import UserError
from fromzero.model.attention import Attention
from fromzero.model.block import Block, Cache, Stack
from fromzero.model.config import ModelConfig
from fromzero.model.experts import Mixture, Routes
from fromzero.model.latent_attention import LatentAttention
from fromzero.model.layers import Embedding, Head, Norm
from fromzero.model.linear_loss import IGNORE, BlockLoss, linear_cross_entropy
from fromzero.model.scene import Memory, Scene
from fromzero.parallel.mesh import Mesh


class Style(NamedTuple):
    """How ranks hold a parameter, and what a rank computes with."""

    placement: Placement
    local: Callable[[DTensor], Tensor] = DTensor.to_local


def plan(config: ModelConfig, mesh: DeviceMesh, sequence: bool) -> list[tuple[str, Style]]:
    """(pattern of a parameter's name, its style); the first pattern that is found in a name counts."""
    rank, size = mesh.get_local_rank(), mesh.size()
    rows, columns, alike, summed = Style(Shard(0)), Style(Shard(1)), Style(Replicate()), Style(Replicate(), _summed)
    once = Style(Replicate(), lambda bias: _summed(bias) * float(rank == 0))  # added to a sum over ranks
    # Of fewer keys than ranks, each takes the one that its queries look at.
    first, width = rank * config.key_value_heads // size * config.head_size, config.head_size
    one_key = Style(Replicate(), lambda weight: _summed(weight).narrow(0, first, width))
    keys = rows if config.key_value_heads % size == 0 else one_key
    return [
        (r"^token_embedding\.weight$", rows),
        (r"^head\.", rows),
        (r"relative_bias\.weight$", columns),
        (r"\.(attention|cross)\.(query|query_up|key_up|value_up)\.", rows),
        (r"\.(attention|cross)\.(key|value)\.", keys),
        (r"\.(attention|cross)\.sinks$", rows),
        (r"\.(attention|cross)\.(query|key)_norm\.", rows if config.qk_norm == "full" else summed),
        (r"\.feed_forward\.(shared\.)?(up|gate)\.", rows),
        (r"\.(output|down)\.weight$", columns),
        (r"\.(output|down)\.bias$", once),
        (r"\.experts\.(up|gate)$", Style(Shard(1))),  # (E, F, D); down is (E, D, F)
        (r"\.experts\.down$", Style(Shard(2))),
        (r"\.(attention|cross|feed_forward)\.", summed),
        (r"blocks\.", summed if sequence else alike),
        (r"", alike),
    ]


def split(model: nn.Module, mesh: Mesh, sequence: bool) -> None:
    """Cut a model, whose weights are the same on all ranks, along the dimension `tensor` of the mesh, in place.

    sequence: whether ranks have parts of the sequence between regions. Raises UserError where it can't be cut evenly.
    """
    config: ModelConfig = model.config
    tensor = mesh["tensor"]
    _check(config, tensor.size(), sequence, mesh["expert"].size())
    styles, mixins = plan(config, tensor, sequence), _mixins(model, config, sequence)
    for path, module in model.named_modules():
        views: dict[str, Any] = {}
        for name, parameter in list(module.named_parameters(recurse=False)):
            style = next(style for pattern, style in styles if re.search(pattern, f"{path}.{name}"))
            held = distribute_tensor(parameter.detach(), tensor, [style.placement], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(held, parameter.requires_grad))
            views[name] = _view(name, style.local)
        mixin, parts = mixins.get(module, (None, False))
        if views or mixin:
            kind = type(module)
            module.__class__ = type(kind.__name__, (mixin, kind) if mixin else (kind,), views)
        if mixin:
            module.ranks = Ranks(tensor, parts)
        if isinstance(module, Stack):
            heads = config.heads // tensor.size()
            module.heads = slice(tensor.get_local_rank() * heads, (tensor.get_local_rank() + 1) * heads)
        if isinstance(module, LatentAttention):
            module.heads //= tensor.size()


def _view(name: str, local: Callable[[DTensor], Tensor]) -> property:
    def seen(module: nn.Module) -> Tensor:
        parameter: Any = module._parameters[name]
        return parameter if parameter.device_mesh.ndim > 1 else local(parameter)  # FSDP asks for what it has cut too

    return property(seen)


def _summed(parameter: DTensor) -> Tensor:
    """All of it; its gradient is summed over ranks."""
    return _enter(parameter.to_local(), parameter.device_mesh)


def _mixins(model: nn.Module, config: ModelConfig, sequence: bool) -> dict[nn.Module, tuple[type[nn.Module], bool]]:
    """What modules become, and whether ranks have parts of the sequence around them."""
    kinds = {Attention: _SplitAttention, Mixture: _SplitMixture, Stack: _SplitStack}
    made: dict[nn.Module, tuple[type[nn.Module], bool]] = {}
    for path, module in model.named_modules():
        if isinstance(module, Stack):
            made[module] = _SplitStack, sequence
        elif isinstance(module, Block):
            for sublayer in (module.attention, module.cross, module.feed_forward):
                if sublayer is not None:
                    made[sublayer] = kinds.get(type(sublayer), _Region), sequence and not path.startswith("ahead.")
        elif isinstance(module, Attention) and config.qk_norm == "full":
            made |= {norm: (_SplitNorm, False) for norm in (module.query_norm, module.key_norm) if norm is not None}
        elif isinstance(module, Head):
            made[module] = _SplitHead, False
        elif path == "token_embedding":
            made[module] = _SplitEmbedding, False
    return made


def _check(config: ModelConfig, size: int, sequence: bool, expert: int) -> None:
    keys, experts = config.key_value_heads, config.experts
    spread = size % keys == 0 and config.qk_norm != "full"
    sizes = {"heads": config.heads, "vocab_size (that of the tokenizer)": config.vocab_size}
    sizes |= {} if config.latent or spread else {"kv_heads": keys}
    sizes |= {"context": config.context} if sequence else {}
    if experts is None or experts.dense_layers:
        sizes["ffn_width"] = config.ffn_size
    if experts is not None:
        sizes |= {"experts.width": experts.width or config.ffn_size, "experts.shared": experts.shared}
    for name, value in sizes.items():
        if value % size:
            raise UserError(f"parallel.tensor ({size}) does not divide model.{name}, {value}; change one of them")
    if experts is not None and expert > 1:
        raise UserError("parallel.tensor and parallel.expert both cut the experts; set one of them to 1")


def _moved(
    x: Tensor, mesh: DeviceMesh, before: Placement, after: Placement, gradient: Placement | None = None
) -> Tensor:
    """What ranks hold one way, another way; gradient: how they hold that of what comes out, as `after` if not given."""
    held = DTensor.from_local(x, mesh, [before], run_check=False).redistribute(placements=[after])
    return held.to_local(grad_placements=[gradient or after])


def _enter(x: Tensor, mesh: DeviceMesh) -> Tensor:
    """As it is; each rank does a part of what follows, so the gradient is the sum of theirs."""
    return _moved(x, mesh, Replicate(), Replicate(), Partial())


@dataclass(frozen=True)
class Ranks:
    """Those that share matrices."""

    mesh: DeviceMesh
    sequence: bool
    """Whether they have parts of the sequence outside regions."""

    @property
    def _outside(self) -> Placement:
        return Shard(1) if self.sequence else Replicate()

    def enter(self, x: Tensor) -> Tensor:
        """All tokens on all ranks; the gradient is the sum of the ranks'."""
        return _moved(x, self.mesh, self._outside, Replicate(), Partial())

    def leave(self, x: Tensor) -> Tensor:
        """The sum over ranks."""
        return _moved(x, self.mesh, Partial(), self._outside)


class _Shared(nn.Module):
    ranks: Ranks


class _Region(_Shared):
    def forward(self, x_BTD: Tensor, *rest: Any) -> Tensor:
        return self.ranks.leave(super().forward(self.ranks.enter(x_BTD), *rest))


class _SplitAttention(_Region, Attention):
    def across(self, x_BTD: Tensor, memory: Memory, layer: int) -> Tensor:
        memory = replace(memory, states_BSD=_enter(memory.states_BSD, self.ranks.mesh))
        return self.ranks.leave(super().across(self.ranks.enter(x_BTD), memory, layer))


class _SplitMixture(_Region, Mixture):
    def _observe(self, routes: Routes) -> None:
        """All ranks find the same losses, and each gives its share of the gradient."""
        logits, scores = (
            x.detach() + (x - x.detach()) / self.ranks.mesh.size() for x in (routes.logits_NE, routes.scores_NE)
        )
        super()._observe(routes._replace(logits_NE=logits, scores_NE=scores))


class _SplitStack(_Shared, Stack):
    def through(
        self, x_BTD: Tensor, layers: range, scenes: dict[bool, Scene], cache: Cache | None, memory: Memory | None
    ) -> Tensor:
        """Before and after the blocks, all ranks have all tokens and the same gradients."""
        if not self.ranks.sequence:
            return super().through(x_BTD, layers, scenes, cache, memory)
        if x_BTD.shape[1] % self.ranks.mesh.size():
            raise UserError(
                f"parallel.tensor ({self.ranks.mesh.size()}) does not divide a sequence of {x_BTD.shape[1]} tokens; "
                "set parallel.sequence to false"
            )
        part = _moved(x_BTD, self.ranks.mesh, Replicate(), Shard(1))
        return _moved(super().through(part, layers, scenes, cache, memory), self.ranks.mesh, Shard(1), Replicate())


class _SplitNorm(_Shared, Norm):
    def forward(self, x: Tensor) -> Tensor:
        """RMSNorm over the channels of all ranks."""
        wide = x.float()
        square = self.ranks.enter(self.ranks.leave(wide.square().sum(-1, keepdim=True)))
        mean = square / (x.shape[-1] * self.ranks.mesh.size())
        return (wide * torch.rsqrt(mean + self.eps)).to(x.dtype) * self.weight.to(x.dtype)


class _SplitEmbedding(_Shared, Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        """Each rank looks up the ids that it has, and gives zeros for the others."""
        rows_VD = self.weight
        ids = ids - self.ranks.mesh.get_local_rank() * len(rows_VD)
        elsewhere = (ids < 0) | (ids >= len(rows_VD))
        x = F.embedding(ids.masked_fill(elsewhere, 0), rows_VD).masked_fill(elsewhere[..., None], 0)
        return self.ranks.leave(x)


class _SplitHead(_Shared, Head):
    def forward(self, x: Tensor, weight_VD: Tensor) -> Tensor:
        """Logits of the whole vocabulary."""
        part = super().forward(self.ranks.enter(x), weight_VD)
        return _moved(part, self.ranks.mesh, Shard(part.dim() - 1), Replicate())

    def loss(self, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        """Without ever having the logits of the whole vocabulary."""
        x_ND, loss = self.ranks.enter(x_ND), vocabulary_loss(self.ranks.mesh)
        if self.plain:
            return linear_cross_entropy(x_ND, weight_VD, targets_N, loss)
        return _LossOfLogits.apply(super().forward(x_ND, weight_VD), targets_N, loss)


class _LossOfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, loss: BlockLoss) -> Tensor:
        total, grad = loss(logits_NV.float().clone(), targets_N)
        ctx.save_for_backward(grad.to(logits_NV.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grad_total, None, None


def vocabulary_loss(mesh: DeviceMesh) -> BlockLoss:
    """Softmax and logarithm where each rank has the logits of a part of the vocabulary.

    Ranks tell each other three numbers a row: the highest logit, the sum of exponentials, the target's logit.
    """
    group, rank = mesh.get_group(), mesh.get_local_rank()

    def loss(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        counted = targets_N != IGNORE
        targets_N = targets_N - rank * logits_NV.shape[1]
        here = counted & (targets_N >= 0) & (targets_N < logits_NV.shape[1])
        targets_N1 = targets_N.masked_fill(~here, 0)[:, None]
        highest_N = logits_NV.amax(-1)
        dist.all_reduce(highest_N, dist.ReduceOp.MAX, group)
        logits_NV -= highest_N[:, None]
        target_N = logits_NV.gather(1, targets_N1).squeeze(1) * here
        p_NV = logits_NV.exp_()
        sums_2N = torch.stack([p_NV.sum(-1), target_N])
        dist.all_reduce(sums_2N, group=group)
        nats_N = (sums_2N[0].log() - sums_2N[1]) * counted
        p_NV *= (counted / sums_2N[0])[:, None]
        p_NV.scatter_add_(1, targets_N1, -here[:, None].to(p_NV.dtype))
        return nats_N.sum(), p_NV

    return loss
