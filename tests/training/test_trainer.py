"""The loop: exact resume, accumulation, what is written down, what stops it."""

import json
import shutil
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
from fromzero.training.checkpoint import list_checkpoints
from fromzero.training.metrics import read_metrics
from fromzero.training.pretrain import is_sample_step
from tests.conftest import Chain

CONFIG = TrainConfig(
    steps=12, batch_size=4, learning_rate=1e-2, warmup_steps=2, validate_every=6, checkpoint_every=5, log_every=1,
    device="cpu", dtype="float32",
)  # fmt: skip
SHAPE = ModelConfig(vocab_size=320, context=32, layers=2, width=16, heads=2, dropout=0.1)


def trainer(chain: Chain, folder: Path, config: TrainConfig = CONFIG, **changes: Any) -> Trainer:
    model = Transformer(replace(SHAPE, **changes), seed=config.seed)
    loader = WindowLoader(TokenShards(chain.tokens, "train"), SHAPE.context, config.batch_size, config.seed)
    return Trainer(model, loader, config, folder, lambda model, step: {"validation_loss": float(step)})


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


def test_a_damaged_checkpoint_falls_back_to_the_one_before(chain: Chain, tmp_path: Path, capsys: Any) -> None:
    straight = trainer(chain, tmp_path / "straight")
    straight.fit()
    cut = trainer(chain, tmp_path / "cut")
    stop_at(cut, 11)
    with pytest.raises(StoppedError):
        cut.fit()
    newest = list_checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    assert newest.name == "step-00000010"
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "model.safetensors").write_bytes(data)
    resumed = trainer(chain, tmp_path / "cut")
    resumed.fit()
    assert "damaged" in capsys.readouterr().err
    assert equal(weights(straight), weights(resumed))


def test_damaged_checkpoints_are_out_of_the_way_of_new_ones(chain: Chain, tmp_path: Path) -> None:
    cut = trainer(chain, tmp_path)
    stop_at(cut, 11)
    with pytest.raises(StoppedError):
        cut.fit()
    for path in list_checkpoints(tmp_path / "checkpoints"):
        (path / "model.safetensors").write_bytes(b"")
    resumed = trainer(chain, tmp_path, replace(CONFIG, checkpoint_every=2, keep_checkpoints=1))
    stop_at(resumed, 5)
    with pytest.raises(StoppedError):
        resumed.fit()
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000004"]


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
        {"final_learning_rate": -0.1}, {"weight_decay": -1.0}, {"steps": 0}, {"micro_batch_size": 3},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        replace(CONFIG, **changes)


@pytest.mark.parametrize("leftover", [".unfinished", "step-00000010/state.json"])
def test_half_a_checkpoint_is_none(chain: Chain, tmp_path: Path, leftover: str) -> None:
    cut = trainer(chain, tmp_path)
    stop_at(cut, 11)
    with pytest.raises(StoppedError):
        cut.fit()
    folder = tmp_path / "checkpoints"
    if leftover == ".unfinished":  # killed while writing step 10
        (folder / "step-00000010").rename(folder / leftover)
        (folder / leftover / "state.json").unlink()
    else:  # killed while deleting it
        (folder / leftover).unlink()
    resumed = trainer(chain, tmp_path)
    resumed._resume()
    assert resumed.step == 5


def test_checkpoints_hold_no_pickle_and_old_ones_go(chain: Chain, tmp_path: Path) -> None:
    run = trainer(chain, tmp_path, replace(CONFIG, checkpoint_every=2, keep_checkpoints=3))
    run.fit()
    kept = list_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in kept] == ["step-00000008", "step-00000010", "step-00000012"]
    assert {p.name for p in kept[0].iterdir()} == {"model.safetensors", "optimizer.safetensors", "state.json"}


def test_a_checkpoint_of_other_tokens_is_refused(chain: Chain, tmp_path: Path) -> None:
    cut = trainer(chain, tmp_path)
    stop_at(cut, 6)
    with pytest.raises(StoppedError):
        cut.fit()
    state = tmp_path / "checkpoints" / "step-00000005" / "state.json"
    saved = json.loads(state.read_text())
    saved["state"]["loader"]["fingerprint"] = "0" * 64
    state.write_text(json.dumps(saved))
    with pytest.raises(UserError, match="fingerprint"):
        trainer(chain, tmp_path).fit()


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


def test_a_full_disk_leaves_the_old_checkpoint(chain: Chain, tmp_path: Path) -> None:
    """A real full file system: a tmpfs of four megabytes, where this user may mount one."""
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs more rights than this user has")
    try:
        run = trainer(chain, small, replace(CONFIG, checkpoint_every=1, keep_checkpoints=20, steps=30), width=64)
        with pytest.raises(Exception, match=r"No space left"):
            run.fit()
        resumed = trainer(chain, small, replace(CONFIG, steps=30), width=64)
        resumed._resume()
        assert resumed.step == len(list_checkpoints(small / "checkpoints")) > 0
        shutil.rmtree(small / "checkpoints" / ".unfinished", ignore_errors=True)
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)
