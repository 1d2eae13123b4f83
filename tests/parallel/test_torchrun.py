"""Pretraining as torchrun starts it: several processes, one model."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch.distributed as dist

from fromzero.artifact import open_artifact
from fromzero.commands import main
from fromzero.console import console
from fromzero.interop import load_model
from fromzero.training.metrics import read_metrics
from tests.conftest import Chain, RunCommand
from tests.parallel.ranks import run_ranks

SETTINGS = """
model: {layers: 2, width: 32, heads: 2, context: 32}
train:
  {steps: 6, batch_size: 4, learning_rate: 0.01, warmup_steps: 2, validate_every: 3, validation_tokens: 512,
   log_every: 1, dtype: float32, device: cpu}
sample_points: 1
"""


@pytest.fixture(scope="module")
def arguments(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("settings") / "pretrain.yaml"
    file.write_text(SETTINGS)
    return ["pretrain", "--config", str(file), "--tokens", str(chain.tokens)]


def torchrun(processes: int, arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    line += ["-m", "fromzero", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment, check=False)


def losses(folder: Path, kind: str, name: str) -> list[float]:
    return [line[name] for line in read_metrics(folder / "run" / "metrics.jsonl") if line["kind"] == kind]


def test_two_processes_train_the_model_that_one_does(arguments: list[str], command: RunCommand, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    result = command(*arguments, "--output", alone)
    assert result.returncode == 0, result.stderr
    shared = torchrun(2, [*arguments, "--output", together, "--parallel.shard", 2])
    assert shared.returncode == 0, shared.stderr
    for kind, name in (("train", "loss"), ("train", "gradient_norm"), ("look", "validation_loss")):
        assert losses(together, kind, name) == pytest.approx(losses(alone, kind, name), abs=1e-4)
    assert shared.stderr.count("model:") == 1, "one rank speaks"
    one, other = (dict(load_model(folder).named_parameters()) for folder in (alone, together))
    assert one.keys() == other.keys()
    assert all((one[name] - other[name]).abs().max() < 1e-4 for name in one)
    assert open_artifact(together, "model")


def call_main(calls: Sequence[list[str]]) -> list[tuple[int, str]]:
    """What the command line returns and says on this rank."""
    os.environ["RANK"] = str(dist.get_rank())  # as torchrun sets it
    heard = []
    for arguments in calls:
        console.file = io.StringIO()
        heard.append((main(arguments), console.file.getvalue()))
    return heard


def test_what_does_not_fit_is_said_by_one_rank_and_ends_all(arguments: list[str], tmp_path: Path) -> None:
    cases = {
        "needs 3 processes, but there are 2": ["--parallel.tensor", "3"],
        "is not a multiple of the 2 processes": ["--train.batch_size", "3"],
        "nowhere": ["--tokens", "nowhere"],
        "did you mean '--train.batch_size'": ["--train.batch_sizes", "4"],
    }
    calls = [[*arguments, "--output", str(tmp_path / "base"), *more] for more in cases.values()]
    first, second = run_ranks(2, call_main, calls)
    for message, (code, said), (other_code, other_said) in zip(cases, first, second, strict=True):
        assert code == other_code == 2
        errors = [line for line in said.splitlines() if line.startswith("fromzero: ")]
        assert len(errors) == 1
        assert message in errors[0]
        assert said.endswith(errors[0] + "\n")
        assert other_said == ""
    assert not (tmp_path / "base" / "manifest.json").exists()
