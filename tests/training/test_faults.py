"""Steps that must not be taken: no numbers on any rank, and spikes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.training import TrainConfig, Trainer
from fromzero.training.faults import HISTORY, PATIENCE, WINDOW, Guard
from fromzero.training.objective import NextToken
from tests.parallel.ranks import run_ranks

SHAPE = ModelConfig(vocab_size=64, context=8, layers=2, width=16, heads=2)
CONFIG = TrainConfig(
    steps=6, batch_size=8, micro_batch_size=2, learning_rate=1e-2, warmup_steps=0, validate_every=100,
    checkpoint_every=2, log_every=1, device="cpu", dtype="float32",
)  # fmt: skip
BAD = 63  # the token that makes numbers none


class _SickGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.full((16,), math.nan)


class Sick(NextToken):
    """The next token's loss, but rows with BAD in them make the loss or only a gradient no number."""

    how = "nan"

    def forward(self, **batch: Tensor) -> Tensor:
        loss = super().forward(**batch)
        if not bool((batch["ids_BT"] == BAD).any()):
            return loss
        if self.how == "gradient":
            return loss + _SickGradient.apply(self.model.final_norm.weight)
        return loss * float(self.how)


class Rows:
    """Endless rows of a seed; the batch of step `bad_step` has BAD in one row of the whole batch."""

    def __init__(self, bad_step: int = -1, bad_row: int = 0, rank: int = 0, size: int = 1) -> None:
        self.bad_step, self.bad_row, self.rank, self.size, self.step = bad_step, bad_row, rank, size, 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        ids = torch.randint(0, BAD, (8, 9), generator=torch.Generator().manual_seed(self.step))
        if self.step == self.bad_step:
            ids[self.bad_row, 3] = BAD
        ids = ids[self.rank * 8 // self.size : (self.rank + 1) * 8 // self.size]
        self.step += 1
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def documents(self) -> list[list[str]]:
        return [[f"document-{self.rank}-{row}"] for row in range(8 // self.size)]

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


def sick_trainer(folder: Path, how: str, loader: Rows, world: World, parallel: ParallelConfig) -> Trainer:
    objective = Sick(Transformer(SHAPE, seed=0))
    objective.how = how
    fleet = parallelize(objective, parallel, world)
    return Trainer(objective.model, loader, CONFIG, folder, lambda model, step: {}, objective, fleet)


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_no_number_stops_before_the_step_and_names_the_row(tmp_path: Path, how: str) -> None:
    trainer = sick_trainer(tmp_path, how, Rows(bad_step=3, bad_row=5), World(torch.device("cpu")), ParallelConfig())
    before: dict[str, Tensor] = {}
    trainer.optimizer.register_step_post_hook(
        lambda *_: before.update({n: p.detach().clone() for n, p in trainer.model.named_parameters()})
    )
    with pytest.raises(UserError, match=r"at step 4 .*; row 5 of rank 0 makes it so \(documents document-0-5\); lower"):
        trainer.fit()
    assert all(torch.equal(before[name], p) for name, p in trainer.model.named_parameters())


def test_weights_that_are_no_numbers_are_said_to_be_so(tmp_path: Path) -> None:
    trainer = sick_trainer(tmp_path, "nan", Rows(), World(torch.device("cpu")), ParallelConfig())
    with torch.no_grad():
        trainer.model.token_embedding.weight[0, 0] = math.nan
    with pytest.raises(UserError, match="the weights of rank 0 are no numbers any more; lower"):
        trainer.fit()


def test_weights_that_have_run_away_are_not_put_on_one_row(tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1e30)
    trainer = Trainer(Transformer(SHAPE, seed=0), Rows(), config, tmp_path, lambda model, step: {})
    with pytest.raises(UserError, match=r"as others do too; lower|weights grown too far"):
        trainer.fit()


def test_a_layer_that_is_at_fault_is_not_put_on_the_data(tmp_path: Path) -> None:
    trainer = sick_trainer(tmp_path, "nan", Rows(), World(torch.device("cpu")), ParallelConfig())
    trainer.model.final_norm.register_forward_hook(lambda module, args, x: x * math.nan)
    with pytest.raises(UserError, match="also without the batch"):
        trainer.fit()


def _on_a_rank(how: str, parallel: ParallelConfig, folder: Path) -> tuple[str, bool]:
    """The message on this rank, and whether no step was taken after it."""
    rank, size = dist.get_rank(), dist.get_world_size()
    loader = Rows(bad_step=1, bad_row=6, rank=rank, size=size)
    trainer = sick_trainer(folder / how / str(rank), how, loader, World(torch.device("cpu"), rank, size), parallel)
    taken: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: taken.append(trainer.step))
    try:
        trainer.fit()
    except UserError as error:
        return str(error), taken == [0]
    return "", False


def _on_a_rank_in_all_ways(folder: Path) -> list[tuple[str, bool]]:
    copies, shards = ParallelConfig(replicate=2), ParallelConfig(replicate=1, shard=2)
    ways = [("nan", copies), ("gradient", copies), ("nan", shards), ("gradient", shards)]
    return [_on_a_rank(how, parallel, folder / str(i)) for i, (how, parallel) in enumerate(ways)]


def test_one_rank_stops_all_and_is_named(tmp_path: Path) -> None:
    for said in zip(*run_ranks(2, _on_a_rank_in_all_ways, tmp_path), strict=True):
        assert len({message for message, _ in said}) == 1
        assert "at step 2" in said[0][0]
        assert "row 2 of rank 1 makes it so (documents document-1-2)" in said[0][0]
        assert all(stopped for _, stopped in said)


def steps(guard: Guard, losses: list[float], norms: list[float] | None = None) -> list[bool]:
    norms = norms or [1.0 + 0.01 * (i % 3) for i in range(len(losses))]
    return [guard.allows(i, loss, norm, str) for i, (loss, norm) in enumerate(zip(losses, norms, strict=True))]


def calm(count: int) -> list[float]:
    return [2.0 + 0.1 * (i % 5) for i in range(count)]


def test_a_short_history_skips_nothing() -> None:
    assert all(steps(Guard(True), [*calm(HISTORY - 1), 1e6]))
    assert steps(Guard(True), [*calm(HISTORY), 1e6])[-1] is False
    assert all(steps(Guard(False), [*calm(HISTORY), 1e6]))


def test_the_limit_is_six_sigma_of_loss_or_norm_over_the_last_128_steps() -> None:
    losses = [*[50.0] * 40, *calm(WINDOW)]  # the first forty are forgotten by then
    past = torch.tensor(calm(WINDOW), dtype=torch.float64)
    limit = float(past.mean() + 6 * past.std(unbiased=False))
    for last, taken in ((limit * 0.999, True), (limit * 1.001, False)):
        assert steps(Guard(True), [*losses, last])[-1] is taken
    norms = [1.0 + 0.01 * (i % 3) for i in range(WINDOW)]
    assert steps(Guard(True), [*calm(WINDOW), 2.0], [*norms, 9.0])[-1] is False


def test_spikes_do_not_enter_the_history_but_a_new_level_is_taken() -> None:
    guard = Guard(True)
    taken = steps(guard, [*calm(HISTORY), 9.0, 9.0, 2.0, 9.0])
    assert taken[HISTORY:] == [False, False, True, False]
    assert guard.skipped == 3
    assert len(guard.history) == HISTORY + 1
    assert steps(guard, [9.0] * (PATIENCE + 3)) == [False] * (PATIENCE - 1) + [True] * 4


def test_a_resumed_guard_goes_on_with_its_history() -> None:
    whole, first, second = Guard(True), Guard(True), Guard(True)
    losses = [*calm(HISTORY), 9.0, *calm(20), 8.0]
    straight = steps(whole, losses)
    before = steps(first, losses[:70])
    second.load_state_dict(first.state_dict())
    assert before + steps(second, losses[70:], [1.0 + 0.01 * (i % 3) for i in range(70, len(losses))]) == straight
    assert second.state_dict() == whole.state_dict()


def test_a_skipped_step_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=HISTORY + 1, skip_spikes=True, checkpoint_every=HISTORY)
    model = Transformer(SHAPE, seed=0)
    trainer = Trainer(model, Rows(), config, tmp_path, lambda model, step: {})
    seen: dict[str, Any] = {}

    def now() -> dict[str, Tensor]:
        state = trainer.optimizer.state_dict()["state"]
        tensors = {f"{i}.{k}": v for i, entry in state.items() for k, v in entry.items() if isinstance(v, Tensor)}
        return {n: t.detach().clone() for n, t in (tensors | model.state_dict()).items()}

    original = trainer._train_step

    def train_step(bar: Any) -> None:
        if trainer.step == HISTORY:
            seen.update(now())
            trainer.guard.history[-1] = (0.0, 0.0)
            trainer.guard.history.extend([(0.0, 0.0)] * WINDOW)  # whatever comes now is a spike
        original(bar)

    trainer._train_step = train_step  # type: ignore[method-assign]
    figures = trainer.fit()
    assert all(torch.equal(seen[name], tensor) for name, tensor in now().items())
    assert figures["skipped"] == 1
    assert figures["steps"] == HISTORY + 1
