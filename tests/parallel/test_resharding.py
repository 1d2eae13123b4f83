"""A run that goes on with another number of processes, sharing its weights in another way, ends as if it had not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Experts
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.training import TrainConfig, Trainer
from fromzero.training.checkpoint import list_checkpoints
from fromzero.training.objective import NextToken
from tests.parallel.ranks import run_ranks

CONFIG = TrainConfig(
    steps=10, batch_size=12, learning_rate=1e-3, warmup_steps=2, validate_every=10, checkpoint_every=2, log_every=1,
    device="cpu", dtype="float32",
)  # fmt: skip
EXPERTS = Experts(4, 2, width=8, balance="bias", balance_weight=0.0)
SHAPE = ModelConfig(vocab_size=64, context=8, layers=2, width=20, heads=2, ffn_width=32, experts=EXPERTS, tied=False)
ONE: dict[str, Any] = {}
FSDP = {"shard": 2}
MESHES = {
    "one process": (1, ONE),
    "DDP": (2, ONE),
    "FSDP": (2, FSDP),
    "FSDP of 3": (3, {"shard": 3}),  # uneven parts, some of them empty
    "TP": (2, {"tensor": 2}),
    "experts": (2, {"shard": 2, "expert": 2}),
    "pipeline": (2, {"pipeline": 2}),
    "HSDP": (4, {"replicate": 2, "shard": 2}),
    "TP and FSDP": (4, {"tensor": 2, "shard": 2}),
}


class Batches:
    """This rank's rows of batches drawn by their position."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.position = rank, size, 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(self.position)
        self.position += 1
        ids = torch.randint(64, (12, 9), generator=draw)[self.rank :: self.size]
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def train(folder: Path, parallel: dict[str, Any], steps: int, optimizer: str) -> dict[str, np.ndarray]:
    """Go on from what is there up to a step; the whole weights, on the first rank."""
    many = dist.is_initialized()
    rank, size = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
    objective = NextToken(Transformer(SHAPE, seed=1))
    rows = 1 if parallel.get("pipeline") else None
    config = replace(CONFIG, optimizer=optimizer, micro_batch_size=rows)  # type: ignore[arg-type]
    fleet = parallelize(objective, ParallelConfig(**parallel), World(torch.device("cpu"), rank, size))
    loader = Batches(fleet.data_rank, fleet.data_size)
    trainer = Trainer(objective.model, loader, config, folder, lambda model, step: {}, objective, fleet)
    trainer.config = replace(config, steps=steps, warmup_steps=0, schedule="constant")
    trainer.fit()
    whole = fleet.whole_model()
    return {} if whole is None else {name: tensor.numpy().copy() for name, tensor in whole.state_dict().items()}


def on(mesh: str, folder: Path, steps: int, optimizer: str) -> dict[str, np.ndarray]:
    size, parallel = MESHES[mesh]
    found: dict[str, np.ndarray] = run_ranks(size, train, folder, parallel, steps, optimizer)[0]
    return found


SOME = ["one process", "FSDP", "experts", "pipeline", "TP and FSDP", "one process"]
ALL = ["one process", "FSDP", "DDP", "FSDP of 3", "experts", "pipeline", "TP", "HSDP", "TP and FSDP", "one process"]
RUNS = [
    pytest.param("adamw", SOME, id="adamw"),
    pytest.param("muon", ["FSDP of 3", "TP"], id="muon"),
    pytest.param("adafactor", ["FSDP of 3", "one process"], id="adafactor"),
    pytest.param("adamw", ALL, id="adamw, every mesh", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("optimizer", "order"), RUNS)
def test_one_run_over_many_meshes(tmp_path: Path, optimizer: str, order: list[str]) -> None:
    """Two steps on each mesh, each from the checkpoint of the one before."""
    steps = 2 * len(order)
    straight = on("one process", tmp_path / "straight", steps, optimizer)
    for number, mesh in enumerate(order, 1):
        found = on(mesh, tmp_path / "moved", 2 * number, optimizer)
        assert list_checkpoints(tmp_path / "moved" / "checkpoints")[-1].name == f"step-{2 * number:08d}", mesh
    assert found.keys() == straight.keys()
    for name, tensor in straight.items():
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=1e-5, err_msg=name)
