"""The versions to read: data parallel against torch's, the sharded optimizer against one process."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fromzero.parallel.textbook.data_parallel import DataParallel, in_buckets
from fromzero.parallel.textbook.sharded_optimizer import ShardedOptimizer
from tests.parallel.ranks import run_ranks


def module(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 3))


def rows(step: int) -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(step))


def loss_of(network: nn.Module, x: Tensor) -> Tensor:
    return network(x).square().sum() / 8


def on_a_rank() -> dict[str, float]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    ours, theirs = DataParallel(module(rank), bucket_bytes=200), DistributedDataParallel(module(0))
    mine = rows(0)[rank::ranks]
    for parallel in (ours, theirs):
        ours.synchronize = theirs.require_backward_grad_sync = False
        loss_of(parallel, mine[:1]).backward()
        ours.synchronize = theirs.require_backward_grad_sync = True
        loss_of(parallel, mine[1:]).backward()
    ours.finish()
    pairs = zip(ours.module.parameters(), theirs.module.parameters(), strict=True)
    gradients = max(float((a.grad - b.grad * ranks).abs().max()) for a, b in pairs)  # theirs are means
    return {"gradients": gradients, **sharded(mine, rank, ranks)}


def sharded(mine: Tensor, rank: int, ranks: int) -> dict[str, float]:
    network, alone = module(), module()
    optimizer = ShardedOptimizer(network.parameters(), lambda part: torch.optim.AdamW(part, 0.01))
    one = torch.optim.AdamW(alone.parameters(), 0.01)
    norms, clipped = 0.0, 0
    for step in range(20):
        loss_of(network, rows(step)[rank::ranks]).backward()
        norm = optimizer.step(max_norm=0.2)
        one.zero_grad()
        loss_of(alone, rows(step)).backward()
        expected = float(nn.utils.clip_grad_norm_(alone.parameters(), 0.2))
        one.step()
        norms, clipped = max(norms, abs(norm - expected)), clipped + (expected > 0.2)
    pairs = zip(network.parameters(), alone.parameters(), strict=True)
    weights = max(float((a - b).detach().abs().max()) for a, b in pairs)
    kept = sum(value.numel() for state in optimizer.optimizer.state.values() for value in state.values())
    everything = sum(p.numel() for p in alone.parameters())
    return {"weights": weights, "norms": norms, "clipped": clipped, "kept": kept / (2 * everything)}


def test_equal_to_torchs_and_to_one_process() -> None:
    for found in run_ranks(3, on_a_rank):
        assert found["gradients"] < 1e-6
        assert found["weights"] < 1e-6
        assert found["norms"] < 1e-6
        assert found["clipped"] > 5, "the clip has to bite"
        assert 0.3 < found["kept"] < 0.4, "each of three ranks has a third of the state"


def test_buckets_keep_the_order_and_their_size() -> None:
    parameters = [nn.Parameter(torch.zeros(size)) for size in (10, 10, 100, 5, 5, 5)]
    buckets = in_buckets(parameters, 80)
    assert [[p.numel() for p in bucket] for bucket in buckets] == [[10, 10], [100], [5, 5, 5]]
