"""The same training on a mesh of processes and on one: losses, gradient norms and weights must be the same.

`compare` runs cases and returns a row for each; the modules in MODULES list theirs as CASES. As a table of all:
`python -m tests.parallel.parity [test_data ...]`.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fromzero.model import ModelConfig
from fromzero.parallel import Fleet, ParallelConfig, World, parallelize
from fromzero.training import TrainConfig
from fromzero.training.objective import NextToken, counted
from fromzero.training.objectives import build_model
from fromzero.training.optimizers import make_optimizer
from tests.parallel.ranks import run_ranks

MODULES = ("test_data", "test_experts", "test_tensor", "test_context", "test_pipeline")
TOLERANCE = 1e-5
BATCH, LENGTH, VOCABULARY = 8, 16, 64


@dataclass(frozen=True)
class Case:
    """What is trained how, on how many processes."""

    name: str
    ranks: int
    parallel: Mapping[str, Any]
    """Settings of ParallelConfig."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Settings of ModelConfig that are not those of `trained`."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Settings of TrainConfig that are not those of `trained`."""
    steps: int = 20
    micro_batches: int = 2
    """Of each rank; gradients add up over them."""

    @property
    def data_ranks(self) -> int:
        """So many ranks see different rows."""
        sizes = ParallelConfig(**self.parallel).sizes(self.ranks)
        return sizes["replicate"] * sizes["shard"]


@dataclass(frozen=True)
class Trained:
    """What came of it; the weights on the first rank only."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """The largest differences to one process: of losses and norms in any step, of any weight at the end."""

    case: Case
    loss: float
    norm: float
    weight: float

    def check(self) -> None:
        """Raises AssertionError above the tolerance."""
        for what in ("loss", "norm", "weight"):
            difference = getattr(self, what)
            assert difference <= TOLERANCE, f"{self.case.name}: {what} differs by {difference}"


def compare(cases: Sequence[Case]) -> list[Row]:
    """One row a case. Cases on as many ranks run one after the other in the same processes."""
    trained: dict[str, Trained] = {}
    for ranks in sorted({case.ranks for case in cases}):
        these = [case for case in cases if case.ranks == ranks]
        trained |= run_ranks(ranks, _train_cases, these, seconds=120 * (1 + len(these)))[0]
    return [_row(case, trained[case.name], train(case)) for case in cases]


def train(case: Case) -> Trained:
    """Train in this process; on its own, or with the others of an initialised process group."""
    many = dist.is_initialized()
    rank, size = (dist.get_rank(), dist.get_world_size()) if many else (0, 1)
    shape = {"vocab_size": VOCABULARY, "context": LENGTH, "layers": 2, "width": 32, "heads": 4, "ffn_width": 64}
    settings: dict[str, Any] = {"batch_size": BATCH, "learning_rate": 1e-3, "max_gradient_norm": 0.5}
    config = TrainConfig(**{**settings, **case.train})
    objective = NextToken(build_model(ModelConfig(**{**shape, **case.model}), 1, torch.float32))
    parallel = ParallelConfig(**case.parallel) if many else ParallelConfig()
    fleet = parallelize(
        objective, parallel, World(torch.device("cpu"), rank, size), config.recompute, config.compile == "always"
    )
    optimizer = make_optimizer(fleet.named_parameters(), config)
    losses, norms = [], []
    for step in range(case.steps):
        objective.train()
        rows = _rows(case, fleet)
        ids_BT, targets_BT = _batch(step)
        batch = objective.prepare(ids_BT[rows], targets_BT[rows], step)
        count = int(fleet.sum(counted(batch["targets_BT"])))
        losses.append(fleet.gradients(batch, BATCH // case.data_ranks // case.micro_batches, count))
        norms.append(fleet.clip(config.max_gradient_norm))
        optimizer.step()
        fleet.balance_experts()
        optimizer.zero_grad(set_to_none=True)
    whole = fleet.whole_model()
    weights = {} if whole is None else {name: tensor.numpy().copy() for name, tensor in whole.state_dict().items()}
    return Trained(losses, norms, weights)


def _train_cases(cases: Sequence[Case]) -> dict[str, Trained]:
    return {case.name: train(case) for case in cases}


def _batch(step: int) -> tuple[Tensor, Tensor]:
    """Ids that can be foretold, and targets, of all ranks; some rows have few targets that count."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(VOCABULARY, (BATCH, 1), generator=generator)
    ids = (starts + 7 * torch.arange(LENGTH + 1)) % VOCABULARY
    targets = ids[:, 1:].clone()
    targets[: BATCH // 4, 2:] = -100
    return ids[:, :-1].contiguous(), targets


def _rows(case: Case, fleet: Fleet) -> list[int]:
    """A rank's rows; one process takes all, in an order that gives it the micro-batches of the ranks.

    That matters for the losses of mixtures of experts, which are means over a micro-batch.
    """
    dealt = [list(range(rank, BATCH, case.data_ranks)) for rank in range(case.data_ranks)]
    return [row for rows in dealt for row in rows] if fleet.data_size == 1 else dealt[fleet.data_rank]


def _row(case: Case, many: Trained, one: Trained) -> Row:
    assert many.weights.keys() == one.weights.keys(), "names changed"
    assert one.losses[0] - one.losses[-1] > 0.01 or case.steps < 20, "nothing was learned"
    differences = [float(np.abs(many.weights[name] - weight).max()) for name, weight in one.weights.items()]
    return Row(case, _largest(many.losses, one.losses), _largest(many.norms, one.norms), max(differences))


def _largest(these: Sequence[float], those: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(these, those, strict=True))


def table(rows: Sequence[Row]) -> str:
    """The parity matrix in Markdown."""
    lines = ["| case | processes | loss | gradient norm | weights |", "|---|---:|---:|---:|---:|"]
    lines += [f"| {r.case.name} | {r.case.ranks} | {r.loss:.1e} | {r.norm:.1e} | {r.weight:.1e} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    """Print the matrix of all cases there are, or of some modules."""
    modules = [importlib.import_module(f"tests.parallel.{name}") for name in sys.argv[1:] or MODULES]
    print(table(compare([case for module in modules for case in module.CASES])))


if __name__ == "__main__":
    main()
