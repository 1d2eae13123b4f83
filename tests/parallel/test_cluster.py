"""Starting, stopping and losing processes for real: the templates for clusters, signals, elastic restarts."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fromzero.interop import load_model
from fromzero.training.metrics import read_metrics
from tests.conftest import Chain, RunCommand
from tests.parallel.test_watch import free_port

CLUSTER = Path(__file__).parents[2] / "recipes" / "cluster"
SETTINGS = """
model: {layers: 2, width: 32, heads: 2, context: 32}
train:
  {steps: 120, batch_size: 4, learning_rate: 0.001, warmup_steps: 2, validate_every: 60, validation_tokens: 512,
   checkpoint_every: 10, log_every: 1, dtype: float32, device: cpu, optimizer: sgd, momentum: 0}
sample_points: 0
parallel: {timeout: 40}
"""


@pytest.fixture(scope="module")
def arguments(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("settings") / "pretrain.yaml"
    file.write_text(SETTINGS)
    return ["--config", str(file), "--tokens", str(chain.tokens)]


@pytest.fixture(scope="module")
def alone(arguments: list[str], command: RunCommand, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of an uninterrupted run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "base"
    result = command("pretrain", *arguments, "--output", folder)
    assert result.returncode == 0, result.stderr
    return folder


@contextmanager
def started(script: str, arguments: list[str], **settings: object) -> Iterator[subprocess.Popen[str]]:
    """A template that runs; it and all of its processes are gone afterwards."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    values = {name: str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [str(CLUSTER / script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, **values},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in [*workers(process.pid), process.pid]:
            kill(pid, signal.SIGKILL)
        process.communicate()


def workers(launcher: int) -> list[int]:
    """The processes that a launcher has started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def until_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait for a run to come to a step."""
    deadline = time.monotonic() + 240
    while max((line["step"] for line in metrics(folder)), default=0) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Of a run that may not be finished; its folder has another name until then."""
    found = [*folder.parent.glob(f"*{folder.name}*/run/metrics.jsonl")]
    return [line for file in found for line in read_metrics(file)]


def losses(folder: Path) -> Mapping[int, float]:
    return {line["step"]: line["loss"] for line in metrics(folder) if line["kind"] == "train"}


def assert_same_run(folder: Path, other: Path) -> None:
    ours, theirs = losses(folder), losses(other)
    assert ours.keys() == theirs.keys()
    assert max(abs(ours[step] - theirs[step]) for step in theirs) < 1e-5
    one, two = (dict(load_model(path).named_parameters()) for path in (folder, other))
    for name, parameter in two.items():
        np.testing.assert_allclose(one[name].detach(), parameter.detach(), rtol=0, atol=1e-5)


def test_templates_are_what_they_seem() -> None:
    scripts = [path for path in CLUSTER.iterdir() if path.suffix != ".yaml"]
    assert len(scripts) == 3
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)
        assert os.access(script, os.X_OK)
    sky = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    assert {"num_nodes", "resources", "envs", "file_mounts", "setup", "run"} <= sky.keys()
    for text in (sky["setup"], sky["run"]):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    for name in re.findall(r"recipes/cluster/([\w.-]+)", (CLUSTER / "slurm.sbatch").read_text() + sky["run"]):
        assert (CLUSTER / name).exists()


def stop(arguments: list[str], folder: Path, number: signal.Signals, launcher: bool) -> int:
    """Start two ranks, send a signal to torchrun or to the second rank; the step at which all have stopped."""
    with started("one-node.sh", arguments, PROCESSES=2, RESTARTS=0) as run:
        until_step(folder, 15, run)
        ranks = workers(run.pid)
        assert len(ranks) == 2
        kill(run.pid if launcher else ranks[1], number)
        said = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    assert said.count("fromzero: stopped after step") == 1, said
    assert launcher or f"exitcode  : {128 + number}" in said
    stopped = int(re.findall(r"stopped after step (\d+)", said)[0])
    assert max(losses(folder)) == stopped < 120
    return stopped


def test_a_signal_to_one_rank_stops_all_at_one_step(arguments: list[str], alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    arguments = [*arguments, "--output", str(folder)]
    stopped = stop(arguments, folder, signal.SIGTERM, launcher=False)
    with started("one-node.sh", arguments, PROCESSES=1) as again:
        said = again.communicate(timeout=240)[0]
    assert f"going on from step {stopped}" in said
    assert_same_run(folder, alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "launcher"), [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGINT, True)]
)
def test_any_signal_stops_all(arguments: list[str], tmp_path: Path, number: signal.Signals, launcher: bool) -> None:
    folder = tmp_path / "base"
    stop([*arguments, "--output", str(folder)], folder, number, launcher)


@pytest.mark.slow
def test_two_nodes_and_the_one_that_is_left(arguments: list[str], alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    arguments = [*arguments, "--output", str(folder)]
    where = {"HEAD": f"127.0.0.1:{free_port()}", "NODES": "1:2", "PROCESSES": 1, "WAIT": 5}
    with started("several-nodes.sh", arguments, **where) as first:
        time.sleep(3)  # the first one keeps the store where they meet
        with started("several-nodes.sh", arguments, **where) as second:
            until_step(folder, 25, first)
            for pid in (second.pid, *workers(second.pid)):  # the machine is gone
                kill(pid, signal.SIGKILL)
            second.wait()
            said = first.communicate(timeout=300)[0]
    assert first.returncode == 0, said
    assert "no answer any more from rank" in said
    assert "going on from step" in said
    assert_same_run(folder, alone)
