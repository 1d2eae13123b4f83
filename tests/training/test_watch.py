"""What a run shows of itself: layers on demand, a profile, trackers, cost."""

import json
import math
import os
import sqlite3
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
from fromzero.parallel.config import DIMENSIONS
from fromzero.training import TrainConfig, Trainer
from fromzero.training.metrics import read_metrics
from fromzero.training.objective import NextToken
from fromzero.training.trackers import Tracker, check_trackers
from tests.parallel.ranks import run_ranks

SHAPE = ModelConfig(vocab_size=64, context=8, layers=2, width=16, heads=2, activation="relu", positions="learned")
CONFIG = TrainConfig(
    steps=2, batch_size=8, learning_rate=1e-2, warmup_steps=0, validate_every=100, log_every=1, inspect_every=2,
    max_gradient_norm=0.1, device="cpu", dtype="float32",
)  # fmt: skip
CPU = World(torch.device("cpu"))


class Rows:
    """Endless rows of a seed, or this rank's part of them."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.own, self.step = slice(rank * 8 // size, (rank + 1) * 8 // size), 0

    def next_batch(self) -> tuple[Tensor, Tensor]:
        ids = torch.randint(0, 64, (8, 9), generator=torch.Generator().manual_seed(self.step))[self.own]
        self.step += 1
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


def make_trainer(
    folder: Path, config: TrainConfig, world: World = CPU, parallel: ParallelConfig | None = None
) -> Trainer:
    objective = NextToken(Transformer(SHAPE, seed=0))
    with torch.no_grad():
        objective.model.blocks[1].feed_forward.up.weight[:16] = 0  # a quarter of its hidden units
    fleet = parallelize(objective, parallel or ParallelConfig(), world)
    rows = Rows(fleet.data_rank, fleet.data_size)
    return Trainer(objective.model, rows, config, folder, lambda model, step: {}, objective, fleet)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == kind]


def inspected(folder: Path, config: TrainConfig = CONFIG, *placed: Any) -> dict[str, float]:
    make_trainer(folder, config, *placed).fit()
    found = lines(folder, "inspect")
    assert [line["step"] for line in found] == [2]
    return {name: value for name, value in found[0].items() if "/" in name}


def test_figures_of_a_step_are_those_by_hand(tmp_path: Path) -> None:
    figures = inspected(tmp_path / "run")
    trainer = make_trainer(tmp_path / "hand", replace(CONFIG, inspect_every=0))
    kept: list[dict[str, Tensor]] = [{}, {}]
    model = trainer.model

    def keep(index: int, gradient: bool = False) -> Any:
        values = {n: p.grad if gradient else p for n, p in model.named_parameters()}
        kept[index] = {n: t.detach().clone() for n, t in values.items() if t is not None}

    trainer.optimizer.register_step_pre_hook(lambda *_: keep(0))
    streams: list[Tensor] = []
    model.blocks[0].register_forward_hook(lambda module, args, x: streams.append(x.detach()))
    trainer.optimizer.register_step_post_hook(lambda *_: keep(1))
    trainer.fit()
    before, after = kept
    name = "blocks.1.attention"
    own = [n for n in before if n.startswith(name + ".")]
    step = torch.cat([(after[n] - before[n]).flatten() for n in own]).norm()
    assert figures[f"update_ratio/{name}"] == pytest.approx(
        float(step / torch.cat([before[n].flatten() for n in own]).norm())
    )
    assert figures["activation_rms/blocks.0"] == pytest.approx(float(streams[1].square().mean().sqrt()))
    assert figures["activation_max/blocks.0"] == pytest.approx(float(streams[1].abs().max()))
    norms = [value for name, value in figures.items() if name.startswith("gradient_norm/")]
    assert math.hypot(*norms) == pytest.approx(lines(tmp_path / "run", "train")[-1]["gradient_norm"], rel=1e-5)
    assert math.hypot(*norms) > 2 * CONFIG.max_gradient_norm  # the figures are those before clipping
    assert not lines(tmp_path / "hand", "inspect")


def test_dead_units_are_counted_and_no_hook_is_left(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, replace(CONFIG, steps=1, inspect_every=1, learning_rate=1e-9))
    trainer.fit()
    figures = lines(tmp_path, "inspect")[0]
    assert figures["dead_units/blocks.1.feed_forward"] == 16 / 64
    assert figures["dead_units/blocks.0.feed_forward"] < 0.1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in trainer.model.modules())


def test_accumulation_changes_no_figure(tmp_path: Path) -> None:
    once, often = inspected(tmp_path / "1"), inspected(tmp_path / "2", replace(CONFIG, micro_batch_size=2))
    assert often == pytest.approx(once, rel=1e-3)


def test_compiled_blocks_are_watched_and_stay_compiled(tmp_path: Path) -> None:
    plain = inspected(tmp_path / "plain", replace(CONFIG, steps=2))
    trainer = make_trainer(tmp_path / "compiled", CONFIG)
    for block in trainer.model.blocks:
        block.compile(backend="eager")
    trainer.fit()
    found = lines(tmp_path / "compiled", "inspect")[0]
    assert {n: v for n, v in found.items() if "/" in n} == pytest.approx(plain, rel=1e-3)
    assert all(block._compiled is not None for block in trainer.model.blocks)


def _inspected_on_a_rank(folder: Path) -> list[dict[str, float]]:
    world = World(torch.device("cpu"), dist.get_rank(), dist.get_world_size())
    ways = [ParallelConfig(**{"replicate": 1, dimension: 2}) for dimension in DIMENSIONS if dimension != "context"]
    for i, parallel in enumerate(ways):
        make_trainer(folder / str(i), replace(CONFIG, micro_batch_size=2), world, parallel).fit()
    if not world.first:
        return []
    return [{n: v for n, v in lines(folder / str(i), "inspect")[0].items() if "/" in n} for i in range(len(ways))]


def test_ranks_see_together_what_one_process_sees(tmp_path: Path) -> None:
    alone = inspected(tmp_path / "alone")
    for together in run_ranks(2, _inspected_on_a_rank, tmp_path)[0]:
        dead = [name for name in alone if name.startswith("dead_units")]  # of the tokens of a rank
        assert {n: v for n, v in together.items() if n not in dead} == pytest.approx(
            {n: v for n, v in alone.items() if n not in dead}, rel=1e-3
        )
        assert together["dead_units/blocks.1.feed_forward"] >= 0.2


def test_a_profile_of_some_steps(tmp_path: Path, capsys: Any) -> None:
    make_trainer(tmp_path, replace(CONFIG, steps=6, profile_steps=2)).fit()
    events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    assert len([e for e in events if str(e.get("name", "")).startswith("ProfilerStep")]) >= 2
    said = capsys.readouterr().err
    assert "profile of 2 steps" in said
    assert "addmm" in said or "aten::mm" in said


def test_cost_so_far(tmp_path: Path) -> None:
    make_trainer(tmp_path, replace(CONFIG, price=3600.0)).fit()
    line = lines(tmp_path, "train")[-1]
    assert line["cost"] == pytest.approx(line["seconds"])


def test_mfu_is_of_all_devices(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, CONFIG)
    alone = trainer._speed_figures(1000.0)
    trainer.world = World(torch.device("cpu"), 0, 4)
    together = trainer._speed_figures(1000.0)
    assert together["flops_per_second"] == alone["flops_per_second"]
    assert together["mfu"] == alone["mfu"] / 4


Tracked = tuple[str, Path]
"""The name of a tracker that stays on this computer, and where trackio writes."""


@pytest.fixture(params=["wandb", "trackio"], scope="module")
def tracked(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        pytest.importorskip(request.param)
        yield request.param, Path(os.environ["TRACKIO_DIR"])


def kept(tracked: Tracked, folder: Path, own: str) -> list[bytes]:
    """What a tracker kept of each part of a run, whose folder and name there are these."""
    if tracked[0] == "wandb":
        return [file.read_bytes() for file in sorted(folder.rglob("*.wandb"))]
    with sqlite3.connect(tracked[1] / "fromzero.db") as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics WHERE run_name = ? ORDER BY id", (own,))
        return [repr(row).encode() for row in rows]


def test_trackers_get_numbers_and_the_same_name_when_resumed(tmp_path: Path, tracked: Tracked, capsys: Any) -> None:
    folder = tmp_path / "model" / "run"
    for step in (1, 2):
        tracker = Tracker(tracked[0], folder, {"steps": 9})
        tracker.write({"step": step, "kind": "train", "loss": step + 0.5})
        tracker.close()
    assert "failed" not in capsys.readouterr().err
    own = (folder / "tracked-as.txt").read_text()
    assert own.startswith("model-")
    parts = kept(tracked, folder, own)
    assert len(parts) == 2
    for part, loss in zip(parts, (b"1.5", b"2.5"), strict=True):
        assert own.encode() in part
        assert b"loss" in part
        assert loss in part
        assert b"kind" not in part, "no number"


def test_a_tracker_that_fails_is_warned_about_and_left_out(tmp_path: Path, tracked: Tracked, capsys: Any) -> None:
    tracker = Tracker(tracked[0], tmp_path / "model" / "run", {})
    tracker.write({"step": 1, "loss": 2.5})
    run, tracker.run.log = tracker.run, None  # as good a bug as any
    for step in (2, 3):
        tracker.write({"step": step, "loss": 2.5})
    tracker.close()
    run.finish()
    said = capsys.readouterr().err
    assert said.count("training goes on without it") == 1
    assert f"{tracked[0]} failed (TypeError(" in said


def test_a_missing_tracker_names_the_command_that_installs_it() -> None:
    with pytest.raises(UserError, match=r"pip install 'fromzero\[track-no_such_tracker\]'"):
        check_trackers(["no_such_tracker"])
