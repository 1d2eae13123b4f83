"""The loop: exact resume, accumulation, what is written down, what stops it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fromzero.dataset import TokenShards, WindowLoader
from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.training import TrainConfig, Trainer
from fromzero.training.metrics import read_metrics
from fromzero.training.pretrain import is_sample_step
from tests.conftest import Chain

CONFIG = TrainConfig(
    steps=12, batch_size=4, learning_rate=1e-2, warmup_steps=2, validate_every=6, checkpoint_every=5, log_every=1,
    device="cpu", dtype="float32",
)  # fmt: skip
SHAPE = ModelConfig(vocab_size=320, context=32, layers=2, width=16, heads=2, dropout=0.1)


def trainer(chain: Chain, folder: Path, config: TrainConfig = CONFIG, **changes: Any) -> Trainer:
    how = {name: changes.pop(name) for name in ("resume", "identity") if name in changes}
    model = Transformer(replace(SHAPE, **changes), seed=config.seed)
    loader = WindowLoader(TokenShards(chain.tokens, "train"), SHAPE.context, config.batch_size, config.seed)
    return Trainer(model, loader, config, folder, lambda model, step: {"validation_loss": float(step)}, **how)


def weights(trained: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


class StoppedError(Exception):
    """The end of a test's patience."""


def stop_at(trained: Trainer, step: int) -> None:
    """Make the run end as a kill would, after that step, without a word to the trainer."""
    original = trained._train_step

    def train_step(bar: Any) -> None:
        if trained.step == step:
            raise StoppedError
        original(bar)

    trained._train_step = train_step  # type: ignore[method-assign]


def test_it_learns_and_writes_down_what_happened(chain: Chain, tmp_path: Path) -> None:
    run = trainer(chain, tmp_path, replace(CONFIG, steps=60), dropout=0.0)
    figures = run.fit()
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[0] > 5.5 > 4.5 > losses[-1]
    assert [line["step"] for line in lines if line["kind"] == "look"] == list(range(0, 61, 6))
    assert figures["tokens"] == 60 * 4 * 32 == lines[-2]["tokens"]
    assert {"tokens_per_second", "mfu", "flops_per_second", "peak_memory_bytes", "gradient_norm"} <= lines[-2].keys()
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_same_seed_gives_the_same_weights_and_another_does_not(chain: Chain, tmp_path: Path) -> None:
    runs = [trainer(chain, tmp_path / str(i), replace(CONFIG, seed=seed)) for i, seed in enumerate((0, 0, 1))]
    for run in runs:
        run.fit()
    assert equal(weights(runs[0]), weights(runs[1]))
    assert not equal(weights(runs[0]), weights(runs[2]))


@pytest.mark.parametrize("killed_after", [3, 5, 8, 11])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(chain: Chain, tmp_path: Path, killed_after: int) -> None:
    straight = trainer(chain, tmp_path / "straight")
    straight.fit()
    cut = trainer(chain, tmp_path / "cut")
    stop_at(cut, killed_after)
    with pytest.raises(StoppedError):
        cut.fit()
    resumed = trainer(chain, tmp_path / "cut")
    figures = resumed.fit()
    assert equal(weights(straight), weights(resumed))
    assert figures["tokens"] == 12 * 4 * 32

    def history(folder: str) -> list[tuple[int, float]]:
        lines = read_metrics(tmp_path / folder / "metrics.jsonl")
        return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]

    assert history("cut") == history("straight")


def test_the_end_is_a_checkpoint_too(chain: Chain, tmp_path: Path) -> None:
    run = trainer(chain, tmp_path)
    run.fit()
    again = trainer(chain, tmp_path)
    figures = again.fit()
    assert figures["steps"] == 12
    assert equal(weights(run), weights(again))


@pytest.mark.parametrize(
    "changes",
    [
        {"validation_tokens": 0}, {"beta1": 1.0}, {"seed": -1}, {"learning_rate": float("nan")}, {"warmup_steps": -1},
        {"final_learning_rate": -0.1}, {"ahead_weight": 0.0}, {"weight_decay": -1.0}, {"steps": 0},
        {"micro_batch_size": 3},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        replace(CONFIG, **changes)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_size_of_a_micro_batch_changes_nothing(chain: Chain, tmp_path: Path, micro: int) -> None:
    whole = trainer(chain, tmp_path / "whole", dropout=0.0)
    parts = trainer(chain, tmp_path / "parts", replace(CONFIG, micro_batch_size=micro), dropout=0.0)
    ids, targets = whole.loader.next_batch()
    targets[:, 20:] = -100
    targets[0, 3:] = -100  # so that micro-batches hold different numbers of counted targets
    batch = {"ids_BT": ids, "targets_BT": targets}
    losses = [run.fleet.gradients(batch, run.config.micro_batch_size, 3 * 20 + 3) for run in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_divergence_stops_before_the_weights_are_touched(chain: Chain, tmp_path: Path) -> None:
    run = trainer(chain, tmp_path)
    with torch.no_grad():
        run.model.final_norm.weight[0] = float("nan")
    before = weights(run)
    with pytest.raises(UserError, match=r"diverged: at step 1 .* lower learning_rate"):
        run.fit()
    after = weights(run)
    assert all(torch.equal(before[n], after[n]) for n in before if n != "final_norm.weight")


def test_bfloat16_trains_too(chain: Chain, tmp_path: Path) -> None:
    run = trainer(chain, tmp_path, replace(CONFIG, steps=30), dropout=0.0)
    run.model.compute_dtype = torch.bfloat16
    figures = run.fit()
    assert figures["loss"] < 5.2
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}


def test_samples_are_taken_at_the_looks_after_evenly_spread_points() -> None:
    config = replace(CONFIG, steps=1100, validate_every=220)
    looks = [0, 220, 440, 660, 880, 1100]
    assert [step for step in looks if is_sample_step(step, config, 4)] == [0, 440, 660, 880, 1100]
    assert [step for step in looks if is_sample_step(step, config, 1)] == [0, 1100]
    assert not any(is_sample_step(step, config, 0) for step in looks)


def test_a_batch_without_loss_is_left_out_with_a_warning(chain: Chain, tmp_path: Path, capsys: Any) -> None:
    run = trainer(chain, tmp_path, replace(CONFIG, steps=2, weight_decay=0.5))
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    dealt = run.loader.next_batch

    def without_loss() -> tuple[torch.Tensor, torch.Tensor]:
        ids_BT, targets_BT = dealt()  # type: ignore[misc]
        return ids_BT, torch.full_like(targets_BT, -100)

    run.loader.next_batch = without_loss  # type: ignore[method-assign]
    figures = run.fit()
    assert figures["steps"] == 2
    assert figures["loss"] == 0
    assert equal(before, run.model.state_dict())
    assert "carries loss; the step is left out" in capsys.readouterr().err
