"""Data parallelism: ranks compute different rows of a batch, and sum their gradients.

Weights that every rank has in full are DDP's (Li et al. 2020, torch's DistributedDataParallel): gradients are summed in
buckets while the backward pass goes on. Weights that ranks share are FSDP's (Zhao et al. 2023, torch's fully_shard):
each block's are gathered just before they are needed and freed after, and each rank keeps the gradients and the
optimizer state of its part. With both, parts are shared within groups of ranks and the same in each group (HSDP).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel

from fromzero.errors import UserError
from fromzero.model.block import Block
from fromzero.model.experts import Bank, Router
from fromzero.model.layers import Norm
from fromzero.parallel.fleet import Fleet
from fromzero.parallel.mesh import Mesh

Kind = TypeVar("Kind")


def share(fleet: Fleet, mesh: Mesh) -> None:
    """Give every module that is called its data parallelism, in place."""
    if mesh["loss"].size() == 1:
        return
    placed = any(isinstance(parameter, DTensor) for part in fleet.parts for parameter in part.parameters())
    if mesh["weights"].size() == 1 and mesh["pipeline"].size() == 1 and not placed:
        _copy(fleet, mesh)
    else:
        _shard(fleet, mesh)


def _copy(fleet: Fleet, mesh: Mesh) -> None:
    (root,) = fleet.roots
    group = mesh["loss"].get_group()
    # Buffers are the same on all ranks: matrices in few bits, and what is worked out from sums over ranks.
    copied = DistributedDataParallel(
        root, process_group=group, gradient_as_bucket_view=True, forward_sync_buffers=False
    )
    copied.register_comm_hook(group, _sum_bucket)
    fleet.roots = [copied]

    def synchronize(last: bool) -> None:
        copied.require_backward_grad_sync = last

    fleet.synchronize = synchronize


def _sum_bucket(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's own way is the mean."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def _shard(fleet: Fleet, mesh: Mesh) -> None:
    dtype: torch.dtype = fleet.blueprint.compute_dtype
    exact = MixedPrecisionPolicy(cast_forward_inputs=False)
    cast = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False) if dtype != torch.float32 else exact
    for root in fleet.roots:
        for block in _all(root, Block):
            _shard_block(block, mesh, cast, exact)
        # Embeddings, the last norm and the head, gathered once a pass and kept until its end.
        fully_shard(root, mesh=_mesh(mesh, "weights"), mp_policy=exact)
        for module in _all(root, FSDPModule):  # FSDP's own way is the mean
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    fleet.synchronize = partial(_synchronize, fleet.roots)


def _shard_block(block: Block, mesh: Mesh, cast: MixedPrecisionPolicy, exact: MixedPrecisionPolicy) -> None:
    """Matrices travel in the compute dtype, in which they are used anyway; what is used in fp32 travels so."""
    for bank in _all(block, Bank):
        if mesh["expert"].size() > 1:
            shared, cut = _mesh(mesh, "experts"), _along_experts(mesh["experts"].size())
            fully_shard(bank, mesh=shared, mp_policy=cast, shard_placement_fn=cut)
    if cast is not exact and (precise := [*_all(block, Norm), *_all(block, Router)]):
        fully_shard(precise, mesh=_mesh(mesh, "weights"), mp_policy=exact)
    fully_shard(block, mesh=_mesh(mesh, "weights"), mp_policy=cast)


def _along_experts(ranks: int) -> Callable[[nn.Parameter], Shard]:
    """Experts (E, F, D) are spread over ranks along E already; the others of the ranks cut them along F or D."""

    def place(parameter: nn.Parameter) -> Shard:
        for dimension in (1, 2):
            if parameter.shape[dimension] % ranks == 0:
                return Shard(dimension)
        sizes = " x ".join(map(str, parameter.shape[1:]))
        raise UserError(
            f"parallel: experts of {sizes} can't be cut for {ranks} ranks; make parallel.expert larger, or "
            "parallel.shard or parallel.context smaller"
        )

    return place


def _mesh(mesh: Mesh, shared: str) -> DeviceMesh:
    return mesh["replicate", shared] if mesh["replicate"].size() > 1 else mesh[shared]


def _synchronize(roots: Sequence[nn.Module], last: bool) -> None:
    for root in roots:
        assert isinstance(root, FSDPModule)
        root.set_requires_gradient_sync(last)
        root.set_is_last_backward(last)


def _all(module: nn.Module, kind: type[Kind]) -> list[Kind]:
    return [found for found in module.modules() if isinstance(found, kind)]
