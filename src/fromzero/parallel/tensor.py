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
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from fromzero.errors import UserError
from fromzero.model.attention import Attention
from fromzero.model.block import Stack
from fromzero.model.config import ModelConfig
from fromzero.model.experts import Mixture, Routes
from fromzero.model.latent_attention import LatentAttention
from fromzero.model.layers import Embedding, FeedForward, Head, Norm
from fromzero.model.linear_loss import IGNORE, BlockLoss, linear_cross_entropy
from fromzero.model.quantized import Matrix, numbers
from fromzero.model.scene import Memory
from fromzero.parallel.mesh import Mesh

_WHOLE = Replicate()


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
        (r"\.(attention|cross|feed_forward)\.(shared\.)?(output|down)\.down\.weight$", columns),  # of adapters
        (r"\.(down|(output|down)\.up)\.weight$(?<!feed_forward\.down\.weight)(?<!shared\.down\.weight)", summed),
        (r"\.(attention|cross)\.(query|query_up|key_up|value_up)\.", rows),
        (r"\.(attention|cross)\.(key|value)\.", keys),
        (r"\.(attention|cross)\.sinks$", rows),
        (r"\.(attention|cross)\.(query|key)_norm\.", rows if config.qk_norm == "full" else summed),
        (r"\.feed_forward\.(shared\.)?(up|gate)\.", rows),
        (r"\.(output|down)\.(base\.)?weight$", columns),
        (r"\.(output|down)\.(base\.)?bias$", once),
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
    config: Any = model.config
    ranks = mesh["tensor"]
    _check(config, ranks.size(), sequence, mesh["expert"].size())
    styles, heads = plan(config, ranks, sequence), config.heads // ranks.size()
    made: dict[Any, type[nn.Module]] = {}
    for path, module in model.named_modules():
        views: list[tuple[str, Style]] = []
        for name, parameter in list(module.named_parameters(recurse=False)):
            style = next(style for pattern, style in styles if re.search(pattern, f"{path}.{name}"))
            held = distribute_tensor(parameter.detach(), ranks, [style.placement], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(held, parameter.requires_grad))
            views.append((name, style))
        mixin = _mixin(path, module, config)
        kind = (type(module), mixin, tuple(views))
        if kind not in made:  # few classes: torch.compile looks at each
            made[kind] = _made(type(module), mixin, views)
        module.__class__ = made[kind]
        if isinstance(module, nn.Linear):  # as others ask: what this rank computes with
            module.out_features, module.in_features = module.weight.shape
        if mixin:
            module.ranks = ranks
            parts = sequence and (isinstance(module, Stack) or "blocks." in path)
            module.outside = Shard(1) if parts else Replicate()
        if isinstance(module, Stack):
            module.own_heads = slice(ranks.get_local_rank() * heads, (ranks.get_local_rank() + 1) * heads)
        if isinstance(module, LatentAttention):
            module.heads = heads


def _made(kind: type[nn.Module], mixin: type[nn.Module] | None, views: list[tuple[str, Style]]) -> type[nn.Module]:
    """The class of a module whose parameters are seen as their styles say."""
    if not mixin and not views:
        return kind
    bases = (mixin, kind) if mixin else (kind,)
    return type(kind.__name__, bases, {name: _view(name, style.local) for name, style in views})


def _view(name: str, local: Callable[[DTensor], Tensor]) -> property:
    def seen(module: nn.Module) -> Tensor:
        parameter: Any = module._parameters[name]
        return parameter if parameter.device_mesh.ndim > 1 else local(parameter)  # FSDP asks for what it has cut too

    return property(seen)


def _summed(parameter: DTensor) -> Tensor:
    """All of it; its gradient is summed over ranks."""
    return _enter(parameter.to_local(), parameter.device_mesh)


def _mixin(path: str, module: nn.Module, config: ModelConfig) -> type[nn.Module] | None:
    """What goes before a module's own class, if anything does."""
    if isinstance(module, Stack):
        return _SplitStack
    if path == "token_embedding":
        return _SplitEmbedding
    if config.qk_norm == "full" and path.endswith(("query_norm", "key_norm")):
        return _SplitNorm
    kinds: dict[type, type[nn.Module]] = {Attention: _SplitAttention, Mixture: _SplitMixture, Head: _SplitHead}
    region = isinstance(module, LatentAttention | FeedForward) and not path.endswith(".shared")
    return _Region if region else kinds.get(type(module))


def _check(config: ModelConfig, size: int, sequence: bool, expert: int) -> None:
    keys, experts = config.key_value_heads, config.experts
    shared = config.latent is not None or (size % keys == 0 and config.qk_norm != "full")
    sizes = {"heads": config.heads, "vocab_size (that of the tokenizer)": config.vocab_size}
    sizes |= {} if shared else {"kv_heads": keys}
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
    x: Tensor, ranks: DeviceMesh, before: Placement, after: Placement, gradient: Placement | None = None
) -> Tensor:
    """What ranks hold one way, another way; gradient: how they hold that of what comes out, as `after` if not given."""
    held = DTensor.from_local(x, ranks, [before], run_check=False).redistribute(placements=[after])
    return held.to_local(grad_placements=[gradient or after])


def _enter(x: Tensor, ranks: DeviceMesh, before: Placement = _WHOLE) -> Tensor:
    """All of it on all ranks; each does a part of what follows, so the gradient is the sum of theirs."""
    return _moved(x, ranks, before, _WHOLE, Partial())


def _leave(x: Tensor, ranks: DeviceMesh, after: Placement = _WHOLE) -> Tensor:
    """The sum over ranks."""
    return _moved(x, ranks, Partial(), after)


class _Split(nn.Module):
    ranks: DeviceMesh
    outside: Placement
    """How ranks have the tokens around it."""


class _Region(_Split):
    def forward(self, x_BTD: Tensor, *rest: Any) -> Tensor:
        x_BTD = super().forward(_enter(x_BTD, self.ranks, self.outside), *rest)
        return _leave(x_BTD, self.ranks, self.outside)


class _SplitAttention(_Region, Attention):
    def across(self, x_BTD: Tensor, memory: Memory, layer: int) -> Tensor:
        memory = replace(memory, states_BSD=_enter(memory.states_BSD, self.ranks))
        x_BTD = super().across(_enter(x_BTD, self.ranks, self.outside), memory, layer)
        return _leave(x_BTD, self.ranks, self.outside)


class _SplitMixture(_Region, Mixture):
    def _observe(self, routes: Routes) -> None:
        """All ranks find the same losses, and each gives its share of the gradient."""
        logits, scores = (
            x.detach() + (x - x.detach()) / self.ranks.size() for x in (routes.logits_NE, routes.scores_NE)
        )
        super()._observe(routes._replace(logits_NE=logits, scores_NE=scores))


class _SplitStack(_Split, Stack):
    def through(self, x_BTD: Tensor, *rest: Any) -> Tensor:
        """Before and after the blocks, all ranks have all tokens and the same gradients."""
        if x_BTD.shape[1] % self.ranks.size() and self.outside != _WHOLE:
            raise UserError(
                f"parallel.tensor ({self.ranks.size()}) does not divide a sequence of {x_BTD.shape[1]} tokens; "
                "set parallel.sequence to false"
            )
        part = _moved(x_BTD, self.ranks, _WHOLE, self.outside)
        return _moved(super().through(part, *rest), self.ranks, self.outside, _WHOLE)


class _SplitNorm(_Split, Norm):
    def forward(self, x: Tensor) -> Tensor:
        """RMSNorm over the channels of all ranks."""
        wide = x.float()
        square = _enter(_leave(wide.square().sum(-1, keepdim=True), self.ranks), self.ranks)
        scale = torch.rsqrt(square / (x.shape[-1] * self.ranks.size()) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight.to(x.dtype)


class _SplitEmbedding(_Split, Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        """Each rank looks up the ids that it has, and gives zeros for the others."""
        rows_VD = self.weight
        ids = ids - self.ranks.get_local_rank() * len(rows_VD)
        elsewhere = (ids < 0) | (ids >= len(rows_VD))
        x = F.embedding(ids.masked_fill(elsewhere, 0), rows_VD).masked_fill(elsewhere[..., None], 0)
        return _leave(x, self.ranks)


class _SplitHead(_Split, Head):
    def forward(self, x: Tensor, weight_VD: Matrix) -> Tensor:
        """Logits of the whole vocabulary."""
        part = super().forward(_enter(x, self.ranks), weight_VD)
        return _moved(part, self.ranks, Shard(part.dim() - 1), _WHOLE)

    def loss(self, x_ND: Tensor, weight_VD: Matrix, targets_N: Tensor) -> Tensor:
        """Without ever having the logits of the whole vocabulary."""
        x_ND, loss = _enter(x_ND, self.ranks), vocabulary_loss(self.ranks)
        return linear_cross_entropy(x_ND, numbers(weight_VD), targets_N, loss, self.bias, self.scale, self.softcap)

    def logprobs(self, x_ND: Tensor, weight_VD: Matrix, targets_N: Tensor, temperature: float = 1.0) -> Tensor:
        """By way of the logits of the whole vocabulary."""
        logprobs_NV = (self(x_ND, weight_VD).float() / temperature).log_softmax(-1)
        chosen_N = logprobs_NV.gather(1, targets_N.clamp(min=0)[:, None])[:, 0]
        return chosen_N.masked_fill(targets_N == IGNORE, 0.0)


def vocabulary_loss(ranks: DeviceMesh) -> BlockLoss:
    """Softmax and logarithm where each rank has the logits of a part of the vocabulary.

    Ranks tell each other three numbers a row: the highest logit, the sum of exponentials, the target's logit.
    """
    group, rank = ranks.get_group(), ranks.get_local_rank()

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
