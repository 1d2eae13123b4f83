"""Expert parallelism: each rank has some of the experts of a mixture, and tokens travel to theirs and back.

The router stays as it is, on every rank. What it sends to an expert goes to the rank that has it by an exchange of all
with all (GShard, Lepikhin et al. 2020), as many rows as it happens to be; the answers come back the same way. So an
expert sees the tokens of all ranks that share experts, and its gradient is their sum already.

A router's own losses and an expert's capacity are those of a rank's micro-batch, as they are of a micro-batch in one
process: unlike the loss of the targets, they depend on how rows are dealt.

Dimensions: R ranks, L experts of each, M rows of tokens, D width.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_tensor

from fromzero.errors import UserError
from fromzero.model.experts import Bank, mixtures
from fromzero.parallel.mesh import Mesh, local


def spread(model: nn.Module, mesh: Mesh) -> None:
    """Leave each rank of the mesh's dimension `expert` its experts of every mixture, in place.

    Parameters become DTensors that are cut along the experts. Raises UserError when there are none, or they can't be
    dealt evenly.
    """
    ranks = mesh["expert"]
    found = mixtures(model)
    if not found:
        raise UserError("parallel.expert is for models with model.experts; this one has none")
    for mixture in found:
        bank = mixture.experts
        if mixture.shape.count % ranks.size():
            raise UserError(
                f"parallel.expert ({ranks.size()}) does not divide the {mixture.shape.count} experts of the model"
            )
        for name, weight in list(bank.named_parameters()):
            part = distribute_tensor(weight.detach(), ranks, [Shard(0)], src_data_rank=None)
            setattr(bank, name, nn.Parameter(part, weight.requires_grad))
        bank.forward = partial(_exchanged, bank, ranks.get_group())  # type: ignore[method-assign]


def _exchanged(bank: Bank, group: dist.ProcessGroup, x_MD: Tensor, counts_E: Tensor) -> Tensor:
    """What `Bank.forward` returns, where other ranks of the group have the other experts."""
    counts_RL = counts_E.view(group.size(), -1)
    received_RL = torch.empty_like(counts_RL)
    dist.all_to_all_single(received_RL, counts_RL, group=group)
    sent, received = counts_RL.sum(1).tolist(), received_RL.sum(1).tolist()
    arrived_MD = _AllToAll.apply(x_MD, sent, received, group)
    # Rows come ordered by the rank that sent them, then by expert; the experts want them by expert.
    experts_M = torch.arange(counts_RL.shape[1], device=x_MD.device).repeat(group.size())
    order_M = experts_M.repeat_interleave(received_RL.flatten()).argsort(stable=True)
    weights = [local(weight) for weight in (bank.up, bank.gate, bank.down)]
    y_MD = bank.compute(arrived_MD[order_M], received_RL.sum(0), *weights)
    return _AllToAll.apply(y_MD[order_M.argsort()], received, sent, group)


class _AllToAll(torch.autograd.Function):
    """Rows to the ranks of a group: the first `sent[0]` to rank 0, and so on; `received` many come from each."""

    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.way_back = received, sent, group
        arrived_MD = x_MD.new_empty(sum(received), x_MD.shape[1])
        dist.all_to_all_single(arrived_MD, x_MD.contiguous(), received, sent, group)
        return arrived_MD

    @staticmethod
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor, None, None, None]:
        return _AllToAll.apply(grad_MD, *ctx.way_back), None, None, None
