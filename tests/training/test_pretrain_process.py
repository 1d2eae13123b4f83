"""Pretraining as a user runs it, in a process of its own, killed, interrupted and asked to end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fromzero.artifact import open_artifact
from fromzero.files import digest_file
from fromzero.training.metrics import read_metrics
from tests.conftest import Chain, RunCommand

SETTINGS = """
model: {layers: 2, width: 32, heads: 2, context: 32, dropout: 0.1}
train:
  {steps: 40, batch_size: 4, learning_rate: 0.01, warmup_steps: 4, validate_every: 20, validation_tokens: 512,
   checkpoint_every: 7, log_every: 1, dtype: float32, device: cpu}
sample_points: 2
"""


@pytest.fixture(scope="module")
def arguments(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("settings") / "pretrain.yaml"
    file.write_text(SETTINGS)
    return ["pretrain", "--config", str(file), "--tokens", str(chain.tokens)]


@pytest.fixture(scope="module")
def straight(arguments: list[str], command: RunCommand, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("straight") / "base"
    result = command(*arguments, "--output", output)
    assert result.returncode == 0, result.stderr
    return output


def stop_in_the_middle(arguments: list[str], output: Path, number: int) -> subprocess.Popen[str]:
    """Start training and send the signal when about half of it is done."""
    line = [sys.executable, "-m", "fromzero", *arguments, "--output", str(output)]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    metrics = output / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not any(record["step"] >= 17 for record in read_metrics(metrics)):
        assert time.monotonic() < deadline, "training did not get under way"
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.005)
    os.kill(process.pid, number)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_and_run_again_gives_the_same_weights_bit_for_bit(
    arguments: list[str], straight: Path, command: RunCommand, tmp_path: Path, number: int, code: int
) -> None:
    output = tmp_path / "base"
    process = stop_in_the_middle(arguments, output, number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == code
    assert not (output / "manifest.json").exists()
    if code != -9:
        assert "run the same command again to go on from there" in message
    result = command(*arguments, "--output", output)
    assert result.returncode == 0, result.stderr
    assert "going on from step" in result.stderr
    assert digest_file(output / "model.safetensors") == digest_file(straight / "model.safetensors")
    first = [record["loss"] for record in read_metrics(straight / "run" / "metrics.jsonl") if record["kind"] == "train"]
    again = [record["loss"] for record in read_metrics(output / "run" / "metrics.jsonl") if record["kind"] == "train"]
    assert first == again
    samples = [(path / "run" / "samples.jsonl").read_text() for path in (straight, output)]
    assert samples[0] == samples[1]


def test_a_finished_run_is_skipped_and_says_what_it_holds(
    arguments: list[str], straight: Path, command: RunCommand
) -> None:
    result = command(*arguments, "--output", straight)
    assert result.returncode == 0
    assert "up to date" in result.stderr
    summary = open_artifact(straight, "model").summary
    assert summary["architecture"] == "llama"
    assert summary["steps"] == 40
    assert not (straight / "run" / "checkpoints").exists()
    card = (straight / "MODEL_CARD.md").read_text()
    assert f"{summary['parameters']:,}" in card
    assert "`fromzero generate FOLDER`" in card
    steps = [json.loads(line)["step"] for line in (straight / "run" / "samples.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [0, 20, 40]


def test_too_little_text_for_a_batch_is_said(arguments: list[str], command: RunCommand, tmp_path: Path) -> None:
    result = command(*arguments, "--output", tmp_path / "base", "--model.context", 4096, "--train.batch_size", 64)
    assert result.returncode == 2
    assert "lower batch_size or context, or add documents" in result.stderr
    assert "Traceback" not in result.stderr
