"""Context parallelism: ranks share each sequence, and keys and values go round them (Liu et al. 2023, ring attention).

Every rank has the queries of its tokens. Keys and values are sent on to the next rank while attention is worked out
over those that have come; what a query finds among the keys of one rank is merged with what it found before by the
logarithms of its sums of exponentials (lse), which is exact. On the way back keys and values go round again, and with
them their gradients, until they are home.

A rank has the chunks r and 2n - 1 - r of 2n (as for Llama 3: Dubey et al. 2024, section 3.3.2). So with causal
attention all ranks have the same work, and of another rank's keys every query of a half sees all, or none.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh

from fromzero.errors import UserError
from fromzero.model import functions
from fromzero.model.block import Stack
from fromzero.model.scene import Scene, Tokens, score_bias
from fromzero.parallel.fleet import Fleet, Micro
from fromzero.parallel.mesh import Mesh

SCORES_BYTES = 256 << 20  # of fp32 scores at once, where no kernel of torch does without them
_aten = torch.ops.aten


def ring(fleet: Fleet, mesh: Mesh) -> None:
    """Give each rank along the dimension `context` of the mesh its part of every sequence, in place.

    Raises UserError for models whose sequences can't be shared.
    """
    config: Any = fleet.blueprint.config
    if config.kind == "encoder_decoder" or config.predict_ahead:
        what = "with an encoder and a decoder" if config.kind == "encoder_decoder" else "that predict further tokens"
        raise UserError(f"parallel.context can't share the sequences of models {what}; set it to 1")
    context = mesh["context"]
    for stack in [module for part in fleet.parts for module in part.modules() if isinstance(module, Stack)]:
        stack.__class__ = type(type(stack).__name__, (_RingStack, type(stack)), {})
        stack.context = context  # type: ignore[assignment]
    fleet.splits.append(partial(_part, rank=context.get_local_rank(), ranks=context.size()))


def places(tokens: int, rank: int, ranks: int) -> Tensor:
    """Where in a sequence of so many tokens those of a rank are, (tokens / ranks,)."""
    chunks = torch.arange(tokens).chunk(2 * ranks)
    return torch.cat([chunks[rank], chunks[2 * ranks - 1 - rank]])


def _part(micro: Micro, rank: int, ranks: int) -> Micro:
    tokens, device = micro["targets_BT"].shape[1], micro["targets_BT"].device
    if tokens % (2 * ranks):
        raise UserError(
            f"parallel.context ({ranks}) needs sequences that can be cut into {2 * ranks} equal parts, but they have "
            f"{tokens} tokens; change model.context"
        )
    mine = places(tokens, rank, ranks).to(device)
    return {name: x[:, mine] if name.endswith("_BT") else x for name, x in micro.items()}


class _RingStack(Stack):
    context: DeviceMesh

    def run(self, x_BTD: Tensor, *given: Any, positions_BT: Tensor | None = None, **marks: Any) -> Tensor:
        if positions_BT is None:
            rank, ranks = self.context.get_local_rank(), self.context.size()
            positions_BT = places(x_BTD.shape[1] * ranks, rank, ranks).to(x_BTD.device)[None]
        return super().run(x_BTD, *given, positions_BT=positions_BT, **marks)

    def _scene(self, tokens: Tokens, windowed: bool) -> Scene:
        if tokens.keep_BT is not None or tokens.prefix_B is not None:
            raise UserError("parallel.context can't share sequences with padding or prefixes; set it to 1")
        return super()._scene(replace(tokens, attend=Circle(self, tokens, windowed).attend), windowed)


class Part(NamedTuple):
    """Some queries of this rank, and some keys of another: slices of their tokens."""

    queries: slice
    keys: slice
    triangle: bool = False
    """As many queries as keys, and each sees itself and what is before it; else all, unless there is a mask."""
    distance_TS: Tensor | None = None
    """Key's place - query's."""
    mask: Tensor | None = None
    """None where a kernel of torch does it."""


class Circle:
    """Attention over the keys of all ranks; who sees whom follows from where tokens are in the sequence."""

    def __init__(self, stack: _RingStack, tokens: Tokens, windowed: bool) -> None:
        """tokens: this rank's. windowed: whether it is for the layers with a window."""
        mesh, total = stack.context, tokens.count * stack.context.size()
        self.group, self.rank, self.size = mesh.get_group(), mesh.get_local_rank(), mesh.size()
        self.config, self.causal, self.own_heads = stack.config, stack.causal, stack.own_heads
        self.table = None if stack.relative_bias is None else stack.relative_bias.weight
        self.biased = self.table is not None or self.config.positions == "alibi"
        self.window = self.config.window if windowed and (self.config.window or total) < total else None
        self.documents = tokens.documents_BT
        self.places = [places(total, rank, self.size).to(tokens.device) for rank in range(self.size)]
        if self.documents is not None:
            self.all_documents = [torch.empty_like(self.documents) for _ in range(self.size)]
            dist.all_gather(self.all_documents, self.documents.contiguous(), group=self.group)

    @torch.compiler.disable
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, _: float | None, sinks_H: Tensor | None
    ) -> Tensor:
        """See attention.attend; the soft cap is the config's."""
        q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
        return _RingAttention.apply(self, q, k, v, sinks_H, self.table)

    def parts(self, source: int, q: Tensor, v: Tensor) -> Iterator[Part]:
        """What is to be done with the keys of rank `source`; it may be nothing."""
        tokens = q.shape[2]
        queries, keys = slice(0, tokens), slice(0, tokens)
        if self.causal:  # its last chunk is after all of ours, or its first before our last
            keys = slice(0, tokens // 2) if source < self.rank else keys
            queries = slice(tokens // 2, tokens) if source > self.rank else queries
        if self._fused(q, v):
            yield Part(queries, keys, self.causal and source == self.rank)
            return
        rows = max(1, SCORES_BYTES // (4 * q.shape[0] * q.shape[1] * tokens))
        for start in range(queries.start, queries.stop, rows):
            these = slice(start, min(start + rows, queries.stop))
            distance_TS = self.places[source][keys] - self.places[self.rank][these, None]
            mask = distance_TS <= 0 if self.causal else torch.ones_like(distance_TS, dtype=torch.bool)
            if self.window is not None:
                mask = mask & (distance_TS.abs() < self.window)
            if self.documents is not None:
                mask = mask & (self.documents[:, None, these, None] == self.all_documents[source][:, None, None, keys])
            if bool(mask.any()):
                yield Part(these, keys, False, distance_TS, mask)

    def _fused(self, q: Tensor, v: Tensor) -> bool:
        """Whether a kernel of torch gives attention and lse, without a mask."""
        whole = self.window is None and self.documents is None and not self.biased
        known = q.device.type == "cpu" or (q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] % 8 == 0)
        return whole and known and self.config.attention_softcap is None and q.shape[-1] == v.shape[-1]

    def send(self, tensors: list[Tensor]) -> Callable[[], list[Tensor]]:
        """Tensors to the next rank; call what is returned for those of the rank before."""
        sent = [x.contiguous() for x in tensors]
        received = [torch.empty_like(x) for x in sent]
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        moves = [dist.P2POp(dist.isend, x, group=self.group, group_peer=after) for x in sent]
        moves += [dist.P2POp(dist.irecv, x, group=self.group, group_peer=before) for x in received]
        pending = dist.batch_isend_irecv(moves)

        def arrived() -> list[Tensor]:
            for work in pending:
                work.wait()
            sent.clear()
            return received

        return arrived

    def attention(self, part: Part, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Over these keys alone, and the lse (B, H, T) in fp32."""
        k, v = (functions.repeat_heads(x, q.shape[1] // x.shape[1]) for x in (k, v))
        if part.mask is not None:
            scores_BHTS = self._scores(part, q, k, self.table)
            lse = scores_BHTS.logsumexp(-1)
            p_BHTS = (scores_BHTS - lse.masked_fill(lse.isinf(), 0.0)[..., None]).exp()
            return p_BHTS.to(v.dtype) @ v, lse
        on_cpu, on_gpu = _aten._scaled_dot_product_flash_attention_for_cpu, _aten._scaled_dot_product_flash_attention
        found = (on_cpu if q.device.type == "cpu" else on_gpu)(q, k, v, 0.0, part.triangle, scale=1.0)
        return found[0], found[1]

    def gradients(
        self, part: Part, q: Tensor, grad: Tensor, out: Tensor, lse: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, ...]:
        """Of q, of k and v for each query head, and of the table, by the share that these keys have in `out`."""
        k, v = (functions.repeat_heads(x, q.shape[1] // x.shape[1]) for x in (k, v))
        if part.mask is not None:
            with torch.enable_grad():
                inputs = [x.detach().requires_grad_() for x in (q, k, self.table) if x is not None]
                scores_BHTS = self._scores(part, inputs[0], inputs[1], inputs[-1])
            p_BHTS = (scores_BHTS.detach() - lse[..., None]).exp()
            along_BHT1 = (grad.float() * out.float()).sum(-1, keepdim=True)
            d_scores = p_BHTS * ((grad @ v.transpose(-2, -1)).float() - along_BHT1)
            dq, dk, *rest = torch.autograd.grad(scores_BHTS, inputs, d_scores)
            return dq, dk, p_BHTS.to(v.dtype).transpose(-2, -1) @ grad, *rest
        given: Any = (grad.contiguous(), q, k, v, out, lse.contiguous())
        if q.device.type == "cpu":
            found = _aten._scaled_dot_product_flash_attention_for_cpu_backward(*given, 0.0, part.triangle, scale=1.0)
        else:
            seed = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of dropout, of which there is none
            given += (None, None, q.shape[2], k.shape[2], 0.0, part.triangle, seed, seed)
            found = _aten._scaled_dot_product_flash_attention_backward(*given, scale=1.0)
        return tuple(found)

    def _scores(self, part: Part, q: Tensor, k: Tensor, table: Tensor | None) -> Tensor:
        """(B, H, T, S) in fp32, -inf where a query does not see a key."""
        scores_BHTS = (q @ k.transpose(-2, -1)).float()
        if self.config.attention_softcap is not None:
            scores_BHTS = functions.soft_cap(scores_BHTS, self.config.attention_softcap)
        if self.biased and part.distance_TS is not None:
            table = None if self.table is None else table
            scores_BHTS = scores_BHTS + score_bias(
                self.config, table, part.distance_TS, not self.causal, self.own_heads
            )
        return scores_BHTS if part.mask is None else scores_BHTS.masked_fill(~part.mask, float("-inf"))


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, circle: Circle, q: Tensor, k: Tensor, v: Tensor, sinks_H: Tensor | None, _: Tensor | None
    ) -> Tensor:
        out = q.new_zeros((*q.shape[:3], v.shape[-1]), dtype=torch.float32)
        lse = q.new_full(q.shape[:3], float("-inf"), dtype=torch.float32)
        if sinks_H is not None:
            lse.copy_(sinks_H[:, None])
        pair = [k, v]
        for step in range(circle.size):
            arrived = circle.send(pair) if step < circle.size - 1 else None
            for part in circle.parts((circle.rank - step) % circle.size, q, v):
                rows = part.queries
                found = circle.attention(part, q[:, :, rows], *(x[:, :, part.keys] for x in pair))
                _merge(out[:, :, rows], lse[:, :, rows], *found)
            pair = arrived() if arrived else pair
        ctx.circle, out = circle, out.to(q.dtype)
        ctx.save_for_backward(q, k, v, sinks_H, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, sinks_H, out, lse = ctx.saved_tensors
        circle: Circle = ctx.circle
        dq = torch.zeros_like(q, dtype=torch.float32)
        d_table = None if circle.table is None else torch.zeros_like(circle.table)
        pair, d_pair = [k, v], [torch.zeros_like(x, dtype=torch.float32) for x in (k, v)]
        for step in range(circle.size):
            arrived = circle.send(pair) if step < circle.size - 1 else None
            home = circle.send(d_pair) if step else None
            more = [torch.zeros_like(x) for x in d_pair]
            for part in circle.parts((circle.rank - step) % circle.size, q, v):
                mine, theirs = (x[:, :, part.queries] for x in (q, grad, out, lse)), (x[:, :, part.keys] for x in pair)
                found = circle.gradients(part, *mine, *theirs)
                dq[:, :, part.queries] += found[0]
                for sums, of_heads in zip(more, found[1:3], strict=True):
                    sums[:, :, part.keys] += of_heads.unflatten(1, (k.shape[1], -1)).sum(2)
                if d_table is not None:
                    d_table += found[3]
            d_pair = [a + b for a, b in zip(home() if home else d_pair, more, strict=True)]
            pair = arrived() if arrived else pair
        dk, dv = circle.send(d_pair)()
        d_sinks = None
        if sinks_H is not None:  # a sink gives nothing, so it only takes from the others
            d_sinks = -((sinks_H[:, None] - lse).exp() * (grad.float() * out.float()).sum(-1)).sum((0, 2))
        return None, dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), d_sinks, d_table


def _merge(out: Tensor, lse: Tensor, new_out: Tensor, new_lse: Tensor) -> None:
    """Into what queries have found so far; a rank's own keys come first, and each query sees at least itself there."""
    total = torch.logaddexp(lse, new_lse)
    out.mul_((lse - total).exp()[..., None]).add_(new_out * (new_lse - total).exp()[..., None])
    lse.copy_(total)
