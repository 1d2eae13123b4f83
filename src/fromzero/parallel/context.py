"""Context parallelism: ranks share each sequence, and keys and values go round them (Liu et al. 2023, ring attention).

Every rank has the queries of its tokens. Keys and values of each rank are sent on to the next while attention is worked
out over those that have come; what a query finds among the keys of one rank is merged with what it found before by the
logarithms of its sums of exponentials, which is exact. On the way back keys and values go round again, and their
gradients with them, until they are home.

With causal attention a rank has the chunks r and 2n - 1 - r of 2n (as Llama 3 was trained: Dubey et al. 2024, section
3.3.2): so all ranks have the same work, and of the keys of another rank every query of a half sees all or none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh

from fromzero.errors import UserError
from fromzero.model import functions
from fromzero.model.block import Cache, Stack
from fromzero.model.config import ModelConfig
from fromzero.model.scene import Scene, Tokens, score_bias
from fromzero.parallel.fleet import Fleet, Micro
from fromzero.parallel.mesh import Mesh

SCORES_BYTES = 256 << 20  # of fp32 scores at once, where no kernel of torch does without them


def ring(fleet: Fleet, mesh: Mesh) -> None:
    """Give each rank along the dimension `context` of the mesh its part of every sequence, in place.

    Raises UserError for models whose sequences can't be shared.
    """
    config: ModelConfig = fleet.blueprint.config  # type: ignore[assignment]
    if config.kind == "encoder_decoder" or config.predict_ahead:
        what = "with an encoder and a decoder" if config.kind == "encoder_decoder" else "that predict further tokens"
        raise UserError(f"parallel.context does not share the sequences of models {what}; set it to 1")
    context = mesh["context"]
    for part in fleet.parts:
        for stack in [module for module in part.modules() if isinstance(module, Stack)]:
            stack.__class__ = type(type(stack).__name__, (_RingStack, type(stack)), {})
            stack.context = context  # type: ignore[assignment]
    fleet.splits.append(partial(_part, rank=context.get_local_rank(), ranks=context.size()))


def places(tokens: int, rank: int, ranks: int) -> Tensor:
    """Where in a sequence a rank's tokens are; (tokens / ranks,)."""
    chunks = torch.arange(tokens).chunk(2 * ranks)
    return torch.cat([chunks[rank], chunks[2 * ranks - 1 - rank]])


def _part(micro: Micro, rank: int, ranks: int) -> Micro:
    tokens = micro["targets_BT"].shape[1]
    if tokens % (2 * ranks):
        raise UserError(
            f"parallel.context ({ranks}): a sequence of {tokens} tokens can't be cut into {2 * ranks} equal parts; "
            f"make model.context a multiple of {2 * ranks}"
        )
    mine = places(tokens, rank, ranks).to(micro["targets_BT"].device)
    return {name: x[:, mine] if name.endswith("_BT") else x for name, x in micro.items()}


class _RingStack(Stack):
    context: DeviceMesh

    def run(
        self,
        x_BTD: Tensor,
        dtype: torch.dtype,
        cache: Cache | None = None,
        *,
        positions_BT: Tensor | None = None,
        **marks: Any,
    ) -> Tensor:
        if positions_BT is None:
            ranks = self.context.size()
            positions_BT = places(x_BTD.shape[1] * ranks, self.context.get_local_rank(), ranks).to(x_BTD.device)[None]
        return super().run(x_BTD, dtype, cache, positions_BT=positions_BT, **marks)

    def _scene(self, tokens: Tokens, windowed: bool) -> Scene:
        if tokens.keep_BT is not None:
            raise UserError("parallel.context does not share sequences with padding; set it to 1")
        table = None if self.relative_bias is None else self.relative_bias.weight
        window = self.config.window if windowed else None
        circle = Circle(self.context, tokens, self.config, self.causal, window, self.heads, table)
        return super()._scene(replace(tokens, attend=circle.attend), windowed)


class Part(NamedTuple):
    """Some queries of this rank and some keys of another, in whose places they are."""

    queries: slice
    keys: slice
    triangle: bool
    """Whether queries see keys up to their own place, of as many; else all see all unless there is a mask."""
    distance_TS: Tensor | None = None
    """Key's place - query's; None where a kernel of torch does it, which needs no mask."""
    mask: Tensor | None = None


class Circle:
    """Attention over the keys of all ranks; who sees whom follows from where tokens are in the sequence."""

    def __init__(
        self,
        mesh: DeviceMesh,
        tokens: Tokens,
        config: ModelConfig,
        causal: bool,
        window: int | None,
        heads: slice,
        table: Tensor | None,
    ) -> None:
        """table: T5's biases of this rank's heads."""
        self.group, self.rank, self.size = mesh.get_group(), mesh.get_local_rank(), mesh.size()
        self.config, self.causal, self.heads, self.table = config, causal, heads, table
        total = tokens.count * self.size
        self.window = None if window is None or window >= total else window
        self.prefix_B = tokens.prefix_B
        self.places = [places(total, rank, self.size).to(tokens.device) for rank in range(self.size)]
        self.documents: list[Tensor] | None = None
        if tokens.documents_BT is not None:
            self.documents = [torch.empty_like(tokens.documents_BT) for _ in range(self.size)]
            dist.all_gather(self.documents, tokens.documents_BT.contiguous(), group=self.group)

    @torch.compiler.disable
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, softcap: float | None, sinks_H: Tensor | None
    ) -> Tensor:
        """See attention.attend."""
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return _RingAttention.apply(q, k, v, sinks_H, self.table, self, scale, softcap)

    @property
    def biased(self) -> bool:
        """Whether the distance adds to the scores."""
        return self.table is not None or self.config.positions == "alibi"

    def fused(self, q: Tensor, v: Tensor, softcap: float | None) -> bool:
        """Whether a kernel of torch gives attention and the logarithms, without a mask."""
        whole = self.window is None and self.documents is None and self.prefix_B is None
        known = q.device.type == "cpu" or (q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] % 8 == 0)
        return whole and known and not self.biased and softcap is None and q.shape[-1] == v.shape[-1]

    def parts(self, source: int, q: Tensor, fused: bool) -> Iterator[Part]:
        """What is to be done with the keys of rank `source`; nothing may be."""
        tokens = q.shape[2]
        queries, keys, triangle = slice(0, tokens), slice(0, tokens), False
        if self.causal and self.prefix_B is None:
            triangle = source == self.rank
            keys = slice(0, tokens // 2) if source < self.rank else keys  # its second chunk comes after all of ours
            queries = slice(tokens // 2, tokens) if source > self.rank else queries  # and its first before our second
        if fused:
            yield Part(queries, keys, triangle)
            return
        rows = max(1, SCORES_BYTES // (4 * q.shape[0] * q.shape[1] * (keys.stop - keys.start)))
        for start in range(queries.start, queries.stop, rows):
            part = self._masked(source, slice(start, min(start + rows, queries.stop)), keys)
            if bool(part.mask.any()):  # type: ignore[union-attr]
                yield part

    def _masked(self, source: int, queries: slice, keys: slice) -> Part:
        places_S = self.places[source][keys]
        distance_TS = places_S - self.places[self.rank][queries, None]
        seen_BTS = (distance_TS <= 0 if self.causal else torch.ones_like(distance_TS, dtype=torch.bool))[None]
        if self.prefix_B is not None:
            seen_BTS = seen_BTS | (places_S < self.prefix_B[:, None, None])
        if self.window is not None:
            seen_BTS = seen_BTS & (distance_TS.abs() < self.window)
        if self.documents is not None:
            own, theirs = self.documents[self.rank][:, queries], self.documents[source][:, keys]
            seen_BTS = seen_BTS & (own[:, :, None] == theirs[:, None])
        return Part(queries, keys, False, distance_TS, seen_BTS[:, None])

    def scores(self, q: Tensor, k: Tensor, part: Part, scale: float, softcap: float | None, table: Any) -> Tensor:
        """(B, H, T, S) in fp32, -inf where a query does not see a key."""
        assert part.distance_TS is not None and part.mask is not None
        k = functions.repeat_heads(k, q.shape[1] // k.shape[1])
        scores_BHTS = (q * scale @ k.transpose(-2, -1)).float()
        if softcap is not None:
            scores_BHTS = functions.soft_cap(scores_BHTS, softcap)
        if self.biased:
            both = not self.causal
            scores_BHTS = scores_BHTS + score_bias(self.config, table, part.distance_TS, both, self.heads)
        return scores_BHTS.masked_fill(~part.mask, float("-inf"))

    def send(self, tensors: Sequence[Tensor]) -> "Coming":
        """Tensors to the next rank, and those of the one before on their way here."""
        received = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]
        sent = [x.contiguous() for x in tensors]
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        work = [dist.P2POp(dist.isend, x, group=self.group, group_peer=after) for x in sent]
        work += [dist.P2POp(dist.irecv, x, group=self.group, group_peer=before) for x in received]
        return Coming(received, sent, dist.batch_isend_irecv(work))


@dataclass
class Coming:
    """Tensors on their way."""

    received: list[Tensor]
    sent: list[Tensor]
    """Kept until they are gone."""
    work: Sequence[Any]

    def wait(self) -> list[Tensor]:
        """They are here."""
        for work in self.work:
            work.wait()
        return self.received


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks_H: Tensor | None,
        table: Tensor | None,
        circle: Circle,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        ctx.circle, ctx.scale, ctx.softcap, ctx.fused = circle, scale, softcap, circle.fused(q, v, softcap)
        out = q.new_zeros((*q.shape[:3], v.shape[-1]), dtype=torch.float32)
        # The sum so far is 0 or, with a sink, its exponential.
        lse = q.new_full(q.shape[:3], float("-inf"), dtype=torch.float32)
        if sinks_H is not None:
            lse = lse.copy_(sinks_H[:, None])
        pair = [k, v]
        for step in range(circle.size):
            coming = circle.send(pair) if step < circle.size - 1 else None
            for part in circle.parts((circle.rank - step) % circle.size, q, ctx.fused):
                k_part, v_part = (x[:, :, part.keys] for x in pair)
                found = _attention(ctx, q[:, :, part.queries], k_part, v_part, part, table)
                _merge(out[:, :, part.queries], lse[:, :, part.queries], *found)
            pair = coming.wait() if coming else pair
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, sinks_H, table, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sinks_H, table, out, lse = ctx.saved_tensors
        circle: Circle = ctx.circle
        along = (grad.float() * out.float()).sum(-1)
        dq = torch.zeros_like(q, dtype=torch.float32)
        d_table = None if table is None else torch.zeros_like(table)
        pair, home = [k, v], None
        for step in range(circle.size):
            coming = circle.send(pair) if step < circle.size - 1 else None
            d_pair = [torch.zeros_like(x, dtype=torch.float32) for x in pair]
            for part in circle.parts((circle.rank - step) % circle.size, q, ctx.fused):
                mine = [x[:, :, part.queries] for x in (q, grad, out, lse, along)]
                found = _gradients(ctx, *mine, *(x[:, :, part.keys] for x in pair), part, table)
                dq[:, :, part.queries] += found[0]
                for sum_so_far, more in zip(d_pair, found[1:3], strict=True):
                    sum_so_far[:, :, part.keys] += more.unflatten(1, (k.shape[1], -1)).sum(2)
                if d_table is not None:
                    d_table += found[3]
            if home is not None:
                d_pair = [sum_so_far + more for sum_so_far, more in zip(home.wait(), d_pair, strict=True)]
            home = circle.send(d_pair)
            pair = coming.wait() if coming else pair
        assert home is not None
        dk, dv = home.wait()
        d_sinks = None if sinks_H is None else -((sinks_H[:, None] - lse).exp() * along).sum((0, 2))
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), d_sinks, d_table, None, None, None


def _merge(out: Tensor, lse: Tensor, new_out: Tensor, new_lse: Tensor) -> None:
    """Into what queries have found so far; the first that comes is a rank's own keys, of which each sees one."""
    total = torch.logaddexp(lse, new_lse)
    out.mul_((lse - total).exp()[..., None]).add_(new_out * (new_lse - total).exp()[..., None])
    lse.copy_(total)


def _attention(ctx: Any, q: Tensor, k: Tensor, v: Tensor, part: Part, table: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention over these keys alone, and the logarithms of the sums of exponentials, (B, H, T) in fp32."""
    groups = q.shape[1] // k.shape[1]
    v = functions.repeat_heads(v, groups)
    if not ctx.fused:
        scores_BHTS = ctx.circle.scores(q, k, part, ctx.scale, ctx.softcap, table)
        lse = scores_BHTS.logsumexp(-1)
        p_BHTS = (scores_BHTS - lse.masked_fill(lse.isinf(), 0.0)[..., None]).exp()
        return p_BHTS.to(v.dtype) @ v, lse
    k = functions.repeat_heads(k, groups)
    if q.device.type == "cpu":
        forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return forward(q, k, v, 0.0, part.triangle, scale=ctx.scale)
    found = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, part.triangle, False, scale=ctx.scale)
    ctx.random = found[6:8]  # for dropout, of which there is none
    return found[0], found[1]


def _gradients(
    ctx: Any,
    q: Tensor,
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    along: Tensor,
    k: Tensor,
    v: Tensor,
    part: Part,
    table: Tensor | None,
) -> tuple[Tensor, ...]:
    """Of q, of the k and v of each query head, and of the table, by the part that these keys have in `out`."""
    groups = q.shape[1] // k.shape[1]
    k, v = functions.repeat_heads(k, groups), functions.repeat_heads(v, groups)
    if not ctx.fused:
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in (q, k) + (() if table is None else (table,))]
            scores_BHTS = ctx.circle.scores(*inputs[:2], part, ctx.scale, ctx.softcap, *(inputs[2:] or (None,)))
        p_BHTS = (scores_BHTS.detach() - lse[..., None]).exp()
        dv = p_BHTS.to(v.dtype).transpose(-2, -1) @ grad
        d_scores = p_BHTS * ((grad @ v.transpose(-2, -1)).float() - along[..., None])
        dq, dk, *rest = torch.autograd.grad(scores_BHTS, inputs, d_scores)
        return dq, dk, dv, *rest
    given = (grad.contiguous(), q, k, v, out, lse.contiguous())
    if q.device.type == "cpu":
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        return backward(*given, 0.0, part.triangle, scale=ctx.scale)
    backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
    lengths = (None, None, q.shape[2], k.shape[2])
    return backward(*given, *lengths, 0.0, part.triangle, *ctx.random, scale=ctx.scale)
