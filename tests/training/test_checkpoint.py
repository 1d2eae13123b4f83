"""Checkpoints: what a resumed run goes on with, what is damaged, full or of another run, and what is kept."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fromzero.dataset.mixture import open_data
from fromzero.errors import Interrupted, UserError
from fromzero.files import digest_file, digest_of
from fromzero.model import Transformer
from fromzero.model.config import Experts
from fromzero.training import Trainer
from fromzero.training.checkpoint import list_checkpoints
from fromzero.training.checkpoint_files import Writer
from fromzero.training.random_state import random_state, seed_random_state, set_random_state
from tests.conftest import Chain
from tests.training.test_trainer import CONFIG, SHAPE, StoppedError, equal, stop_at, trainer, weights

FILES = ["model-00000.safetensors", "optimizer-00000.safetensors", "random-00000.json", "state.json"]


def cut_at(run: Trainer, step: int) -> None:
    """Train until a step, and die."""
    stop_at(run, step)
    with pytest.raises(StoppedError):
        run.fit()


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder / "checkpoints")]


@pytest.fixture(scope="module")
def straight(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run that was never cut off."""
    torch.set_num_threads(1)
    run = trainer(chain, tmp_path_factory.mktemp("straight"))
    run.fit()
    return run


@pytest.fixture
def folder(chain: Chain, tmp_path: Path) -> Path:
    """Of a run that died after step 11; it holds checkpoints of steps 5 and 10."""
    cut_at(trainer(chain, tmp_path), 11)
    return tmp_path


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adafactor", "lion", "muon"])
def test_every_optimizer_goes_on_with_the_same_bits(chain: Chain, tmp_path: Path, optimizer: str) -> None:
    config = replace(CONFIG, optimizer=optimizer, steps=8)  # type: ignore[arg-type]
    whole = trainer(chain, tmp_path / "whole", config)
    whole.fit()
    cut_at(trainer(chain, tmp_path / "cut", config), 7)
    resumed = trainer(chain, tmp_path / "cut", config)
    resumed.fit()
    assert equal(weights(whole), weights(resumed))


def test_packed_rows_biases_of_experts_and_what_was_skipped_go_on(chain: Chain, tmp_path: Path) -> None:
    experts = Experts(4, 2, width=8, balance="bias")
    config = replace(CONFIG, steps=8, skip_spikes=True)

    def make(name: str) -> Trainer:
        model = Transformer(replace(SHAPE, experts=experts), seed=0)
        loader = open_data(chain.tokens, "best_fit").loader(SHAPE.context, 4, 0)
        return Trainer(model, loader, config, tmp_path / name, lambda model, step: {})

    whole = make("whole")
    whole.fit()
    biases = [tensor for name, tensor in weights(whole).items() if name.endswith("bias")]
    assert any(bias.any() for bias in biases)
    cut_at(make("cut"), 7)
    resumed = make("cut")
    resumed.fit()
    assert equal(weights(whole), weights(resumed))
    assert {name: p.state_dict() for name, p in whole.parts.items()} == {
        name: p.state_dict() for name, p in resumed.parts.items()
    }


def test_every_random_generator_goes_on() -> None:
    def draw() -> list[float]:
        return [float(torch.rand(1)), np.random.default_rng().bit_generator is not None and np.random.rand()]

    seed_random_state(1, 2, 3)
    import random

    random.gauss(0, 1)  # leaves a spare number behind
    np.random.randn()
    state = json.loads(json.dumps(random_state()))
    first = [*draw(), random.gauss(0, 1), np.random.randn()]
    set_random_state(state)
    assert [*draw(), random.gauss(0, 1), np.random.randn()] == first
    seed_random_state(1, 2, 4)
    assert draw() != first[:2]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_falls_back_to_the_checkpoint_before(
    chain: Chain, folder: Path, straight: Trainer, name: str, capsys: Any
) -> None:
    file = folder / "checkpoints" / "step-00000010" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    resumed = trainer(chain, folder)
    resumed.fit()
    said = capsys.readouterr().err
    assert f"step-00000010 is damaged ({name}" in said.replace("\n", " ") or name == "state.json"
    assert "going on from step 5" in said
    assert equal(weights(straight), weights(resumed))


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "{}", "null", '{"self": 1}', "\ud800" * 9, "[" * 100_000, '{"self": {}, "format": []}'],
    ids=str.__len__,
)
def test_foreign_json_is_no_checkpoint(chain: Chain, folder: Path, text: str) -> None:
    place = folder / "checkpoints" / "step-00000010" / "state.json"
    place.write_bytes(text.encode("utf-8", "surrogatepass"))
    resumed = trainer(chain, folder)
    resumed._resume()
    assert resumed.step == 5


def test_a_state_of_somebody_else_reads_no_file_outside(chain: Chain, folder: Path, capsys: Any) -> None:
    place = folder / "checkpoints" / "step-00000010" / "state.json"
    state = json.loads(place.read_text())
    del state["self"]
    state["files"]["../../metrics.jsonl"] = {"bytes": 1, "sha256": ""}
    place.write_text(json.dumps({**state, "self": digest_of(state)}))
    trainer(chain, folder)._resume()
    assert "names a file outside" in capsys.readouterr().err.replace("\n", " ")


def test_damaged_checkpoints_are_out_of_the_way_of_new_ones(chain: Chain, folder: Path) -> None:
    for path in list_checkpoints(folder / "checkpoints"):
        (path / FILES[0]).write_bytes(b"")
    resumed = trainer(chain, folder, replace(CONFIG, checkpoint_every=2, keep_checkpoints=1))
    cut_at(resumed, 5)
    assert steps(folder) == [4]
    aside = {path.name for path in (folder / "checkpoints" / "set-aside").iterdir()}
    assert aside == {"step-00000005.0", "step-00000010.0"}


@pytest.mark.parametrize("leftover", [".unfinished", "step-00000010/state.json"])
def test_half_a_checkpoint_is_none(chain: Chain, folder: Path, leftover: str) -> None:
    checkpoints = folder / "checkpoints"
    if leftover == ".unfinished":
        (checkpoints / "step-00000010").rename(checkpoints / leftover)
    else:
        (checkpoints / leftover).unlink()
    resumed = trainer(chain, folder)
    resumed._resume()
    assert resumed.step == 5


def test_a_step_can_be_named_and_later_ones_are_set_aside(
    chain: Chain, folder: Path, straight: Trainer, capsys: Any
) -> None:
    with pytest.raises(UserError, match=r"no checkpoint of step 7; there are 5, 10"):
        trainer(chain, folder, resume=7).fit()
    resumed = trainer(chain, folder, resume=5)
    resumed._resume()
    assert resumed.step == 5
    assert steps(folder) == [5]
    assert "set aside" in capsys.readouterr().err
    resumed = trainer(chain, folder)
    resumed.fit()
    assert equal(weights(straight), weights(resumed))


def test_a_named_step_that_is_damaged_is_an_error(chain: Chain, folder: Path) -> None:
    (folder / "checkpoints" / "step-00000010" / FILES[1]).unlink()
    with pytest.raises(UserError, match=r"step-00000010 is damaged .*; name another step"):
        trainer(chain, folder, resume=10).fit()
    assert steps(folder) == [5, 10]


@pytest.mark.parametrize("choice", ["never", 5])
@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_restart_loses_nothing_of_a_run_that_began_anew(
    chain: Chain, folder: Path, choice: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    run = trainer(chain, folder, resume=choice)
    run._resume()
    assert run.step == 10


def test_a_stop_of_a_run_that_began_anew_says_how_it_goes_on(chain: Chain, tmp_path: Path) -> None:
    run = trainer(chain, tmp_path, resume="never")
    run.look = lambda model, step: os.kill(os.getpid(), signal.SIGTERM) or {}  # type: ignore[func-returns-value]
    with pytest.raises(Interrupted, match="after step 1 of 12; run the same command again with resume: auto") as stop:
        run.fit()
    assert stop.value.code == 143
    assert steps(tmp_path) == [1]


def test_a_run_that_begins_anew_deletes_nothing(chain: Chain, folder: Path) -> None:
    run = trainer(chain, folder, resume="never")
    run._resume()
    assert run.step == 0
    assert steps(folder) == []
    assert len(list((folder / "checkpoints" / "set-aside").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({"width": 32}, {}, "its tensor 'blocks.0.attention_norm.weight' is 16 of float32, here it is 32 of float32;"),
        ({"layers": 3}, {}, "it has no tensor 'blocks.2."),
        ({"layers": 1}, {}, "it has a tensor 'blocks.1."),
        ({}, {"optimizer": "lion"}, "its optimizer is AdamW, here it is Lion"),
        ({"identity": {"tokenizer": "b"}}, {}, "its tokenizer is None, here it is b"),
        ({}, {"seed": 5}, "seed"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_a_checkpoint_of_another_run_is_refused_with_the_first_difference(
    chain: Chain, folder: Path, changes: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        trainer(chain, folder, replace(CONFIG, **config), **changes).fit()
    assert steps(folder) == [5, 10]


def test_checkpoints_hold_no_pickle_and_old_ones_go(chain: Chain, tmp_path: Path) -> None:
    run = trainer(chain, tmp_path, replace(CONFIG, checkpoint_every=2, keep_checkpoints=3))
    run.fit()
    assert steps(tmp_path) == [8, 10, 12]
    assert {p.name for p in (tmp_path / "checkpoints" / "step-00000012").iterdir()} == set(FILES)


def test_the_best_is_kept_beside_the_newest(chain: Chain, tmp_path: Path) -> None:
    losses = {0: 9.0, 2: 5.0, 4: 3.0, 6: 4.0, 8: 4.0, 10: 4.0, 12: 6.0}
    config = replace(CONFIG, checkpoint_every=2, validate_every=2, keep_checkpoints=2, keep_best=True)

    def make() -> Trainer:
        run = trainer(chain, tmp_path, config)
        run.look = lambda model, step: {"validation_loss": losses[step]}
        return run

    cut_at(make(), 9)
    make().fit()
    assert steps(tmp_path) == [4, 10, 12]


def test_a_save_in_the_background_writes_the_bytes_of_one_that_is_waited_for(chain: Chain, tmp_path: Path) -> None:
    runs = [trainer(chain, tmp_path / name, replace(CONFIG, checkpoint_every=1)) for name in ("behind", "waited")]
    save = runs[1].checkpoints.save

    def save_and_wait(*arguments: Any) -> None:
        save(*arguments)
        runs[1].checkpoints.wait()

    runs[1].checkpoints.save = save_and_wait  # type: ignore[method-assign,assignment]
    for run in runs:
        run.fit()
    for name in FILES[:3]:
        behind, waited = (digest_file(run.folder / "checkpoints" / "step-00000011" / name) for run in runs)
        assert behind == waited


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Keeps writers from giving folders their names until it is set."""
    gate = threading.Event()
    finish = Writer.finish

    def wait_and_finish(*arguments: Any, **named: Any) -> None:
        gate.wait(60)
        finish(*arguments, **named)

    monkeypatch.setattr(Writer, "finish", wait_and_finish)
    yield gate
    gate.set()


def test_the_loop_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits(
    chain: Chain, tmp_path: Path, gate: threading.Event
) -> None:
    run = trainer(chain, tmp_path)
    seen: list[tuple[int, list[int]]] = []
    step = run._train_step

    def watched(bar: Any) -> None:
        seen.append((run.step, steps(tmp_path)))
        if run.step == 9:
            threading.Timer(0.2, gate.set).start()
        step(bar)

    run._train_step = watched  # type: ignore[method-assign]
    run.fit()
    assert all(not there for at, there in seen if at < 10)
    assert [there for at, there in seen if at == 10] == [[5]]  # begun at step 5, waited for at step 10
    assert steps(tmp_path) == [10, 12]


def test_an_exception_waits_for_the_checkpoint_that_is_being_written(
    chain: Chain, tmp_path: Path, gate: threading.Event
) -> None:
    threading.Timer(0.5, gate.set).start()
    cut_at(trainer(chain, tmp_path), 6)
    assert steps(tmp_path) == [5]


def test_what_can_not_be_deleted_is_said_and_training_goes_on(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fromzero.training.checkpoint.discard", refuse)
    run = trainer(chain, tmp_path, replace(CONFIG, checkpoint_every=4, keep_checkpoints=1))
    run.fit()
    assert run.step == 12
    assert steps(tmp_path) == [4, 8, 12]
    assert "warning" in capsys.readouterr().err


TROUBLE = """
import ctypes, os, resource, sys
from dataclasses import replace
from pathlib import Path
from tests.training import kill_matrix as runs

folder, kind = Path(sys.argv[1]), sys.argv[2]
runs.CONFIG = replace(runs.CONFIG, validate_every=1)
checkpoints = folder / "checkpoints"

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def prepare(trainer):
    def trouble(model, step):  # the second of three checkpoints, at step 4, meets it
        trainer.checkpoints.wait()
        if kind == "full" and step in (3, 5):
            limit(8192 if step == 3 else resource.RLIM_INFINITY)
        if kind == "denied" and step in (3, 5):
            checkpoints.chmod(0o555 if step == 3 else 0o755)
        if step == 5:
            print(sorted(path.name for path in checkpoints.iterdir()))
        return {}

    trainer.look = trouble

if kind == "denied" and os.getuid() == 0:  # root may write anywhere, until it gives up its capabilities
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None, use_errno=True).capset(version_3, (ctypes.c_uint32 * 6)()) == 0
print(runs.run(folder, prepare))
print(sorted(path.name for path in checkpoints.iterdir()))
"""


@pytest.mark.parametrize("kind", ["full", "denied"])
def test_a_checkpoint_that_can_not_be_written_is_said_and_the_next_is_tried(tmp_path: Path, kind: str) -> None:
    found = {}
    for name in ("none", kind):
        (tmp_path / name).mkdir()
        line = [sys.executable, "-c", TROUBLE, str(tmp_path / name), name]
        found[name] = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    middle, digest, end = found[kind].stdout.splitlines()
    assert middle == "['step-00000002']"
    assert end == "['step-00000006']"
    assert digest == found["none"].stdout.splitlines()[1]
    reason = "File too large" if kind == "full" else "Permission denied"
    assert f"step-00000004 could not be written ([Errno {27 if kind == 'full' else 13}] {reason}" in found[kind].stderr
    assert "warning" not in found["none"].stderr


def test_a_full_disk_stops_no_training(chain: Chain, tmp_path: Path, capsys: Any) -> None:
    """A real full file system: a tmpfs of four megabytes, where this user may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs more rights than this user has")
    try:
        config = replace(CONFIG, checkpoint_every=1, keep_checkpoints=20, steps=14)
        run = trainer(chain, small, config, width=64)
        run.fit()
        assert "No space left on device); training goes on" in capsys.readouterr().err.replace("\n", " ")
        resumed = trainer(chain, small, config, width=64)
        resumed._resume()
        assert resumed.step == steps(small)[-1] > 0
        assert run.step == 14
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)
