"""Adapters on many processes: the same losses and weights as on one; what can't be spread is refused."""

import copy
from typing import Any

import pytest
import torch

from fromzero.model import ModelConfig, Transformer
from fromzero.model.adapters import AdapterConfig, adapters, add_adapters
from fromzero.model.rounding import round_model
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.training import TrainConfig
from fromzero.training.objective import NextToken, counted
from fromzero.training.optimizers import make_optimizer
from tests.parallel.ranks import run_ranks

SHAPE = ModelConfig(layers=2, width=32, heads=4, context=16, vocab_size=64, ffn_width=64)


def train(parallel: dict[str, Any], adapter: AdapterConfig, few_bits: str, size: int) -> tuple[list[float], Any]:
    """Losses, and the whole state at the end (on the first rank)."""
    rank = torch.distributed.get_rank() if size > 1 else 0
    model = Transformer(SHAPE, seed=1)
    round_model(model, few_bits)  # type: ignore[arg-type]
    add_adapters(model, adapter)
    for _, module in adapters(model):
        torch.nn.init.normal_(module.up.weight, std=0.02, generator=torch.Generator().manual_seed(2))
    objective, config = NextToken(model), TrainConfig(batch_size=8, learning_rate=1e-2)
    fleet = parallelize(objective, ParallelConfig(**parallel), World(torch.device("cpu"), rank, size))
    optimizer, losses = make_optimizer(fleet.named_parameters(), config), []
    for step in range(6):
        ids = (step + 5 * torch.arange(8)[:, None] + 7 * torch.arange(17)) % 64
        targets = ids[:, 1:].clone()
        targets[:2, 3:] = -100
        rows = slice(fleet.data_rank, None, fleet.data_size)
        batch = {"ids_BT": ids[rows, :-1], "targets_BT": targets[rows]}
        losses.append(fleet.gradients(batch, 4, fleet.sum(counted(batch["targets_BT"]))))
        fleet.clip(1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    whole = fleet.whole_model()
    return losses, None if whole is None else {n: t.clone() for n, t in copy.deepcopy(whole).state_dict().items()}


CASES: dict[str, tuple[dict[str, Any], AdapterConfig, str]] = {
    "ddp": ({}, AdapterConfig(rank=4), "none"),
    "ddp int4 dora": ({}, AdapterConfig(rank=4, decomposed=True), "int4"),
    "fsdp dora": ({"shard": 2}, AdapterConfig(rank=4, decomposed=True), "none"),
    "fsdp int4": ({"shard": 2}, AdapterConfig(rank=4), "int4"),
    "tensor": ({"tensor": 2}, AdapterConfig(rank=4, alpha=8, rank_stabilized=True), "none"),
    "sequence": ({"tensor": 2, "sequence": True}, AdapterConfig(rank=4), "none"),
    "pipeline": ({"pipeline": 2}, AdapterConfig(rank=4, targets=("feed_forward", "query")), "none"),
}


def _train_all(size: int) -> dict[str, Any]:
    return {name: train(*case, size) for name, case in CASES.items()}


def test_many_processes_learn_what_one_learns() -> None:
    found = run_ranks(2, _train_all, 2, seconds=200)[0]
    for name, case in CASES.items():
        losses, state = train({}, *case[1:], 1)
        assert losses[0] - losses[-1] > 1e-3, name
        assert found[name][0] == pytest.approx(losses, abs=1e-5), name
        assert list(found[name][1]) == list(state), name
        for tensor, expected in state.items():
            torch.testing.assert_close(found[name][1][tensor], expected, atol=1e-5, rtol=1e-5, msg=f"{name} {tensor}")
