"""The rules of artifact folders: skip, rebuild, refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fromzero import artifact
from fromzero.artifact import build, open_artifact
from fromzero.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Settings of a stage for tests."""

    output: Path
    text: str = "a"


class Stage:
    """Writes its text into a file, and counts how often it ran."""

    def __init__(self, output: Path, kind: str = "corpus") -> None:
        self.output, self.kind, self.runs = output, kind, 0

    def __call__(self, text: str = "a", inputs: dict[str, str] | None = None, version: int = 1) -> artifact.Artifact:
        def make(folder: Path) -> dict[str, int]:
            self.runs += 1
            (folder / "sub").mkdir(exist_ok=True)
            (folder / "sub" / "text.txt").write_text(text)
            return {"runs": self.runs}

        settings = Settings(self.output, text)
        return build(self.output, self.kind, settings, inputs or {}, make, version=version, ignore=("output",))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "made")


def test_a_finished_stage_is_skipped_until_settings_inputs_or_version_change(stage: Stage) -> None:
    first = stage()
    assert stage().digest == first.digest
    assert stage.runs == 1
    stage("b")
    stage("b", inputs={"corpus": "1234"})
    stage("b", inputs={"corpus": "1234"}, version=2)
    assert stage.runs == 4
    assert (stage.output / "sub" / "text.txt").read_text() == "b"


def test_the_manifest_says_what_made_it(stage: Stage) -> None:
    made = stage("b", inputs={"corpus": "1234"})
    manifest = json.loads((stage.output / "manifest.json").read_text())
    assert manifest["config"] == {"output": stage.output.as_posix(), "text": "b"}
    assert manifest["inputs"] == {"corpus": "1234"}
    assert manifest["files"]["sub/text.txt"]["bytes"] == 1
    assert {"python", "fromzero", "torch"} <= manifest["packages"].keys()
    assert made.kind == "corpus"
    assert made.summary == {"runs": 1}
    assert not (stage.output / artifact.UNFINISHED).exists()


def test_ignored_settings_inside_a_group_change_nothing(tmp_path: Path) -> None:
    runs = []

    def run(log_every: int, steps: int) -> None:
        config = {"train": {"log_every": log_every, "steps": steps, "seed": 5}}
        made = build(
            tmp_path / "made", "corpus", config, {}, lambda _: runs.append(1) or {}, ignore=("train.log_every",)
        )
        assert made.manifest["seed"] == 5

    for settings in ((1, 1), (2, 1), (2, 2)):
        run(*settings)
    assert len(runs) == 2


def test_a_moved_artifact_is_still_up_to_date(stage: Stage) -> None:
    stage()
    moved = stage.output.rename(stage.output.with_name("elsewhere"))
    stage.output = moved
    stage()
    assert stage.runs == 1


@pytest.mark.parametrize("damage", ["change", "truncate", "delete"])
def test_a_damaged_file_is_refused_and_not_rebuilt_in_silence(stage: Stage, damage: str) -> None:
    stage()
    file = stage.output / "sub" / "text.txt"
    file.unlink() if damage == "delete" else file.write_text("x" if damage == "change" else "")
    for attempt in (stage, lambda: open_artifact(stage.output)):
        with pytest.raises(UserError, match=r"text\.txt.*delete the folder"):
            attempt()
    assert stage.runs == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fromzero_format": 99}'])
def test_an_unreadable_manifest_is_refused(stage: Stage, content: str) -> None:
    stage()
    (stage.output / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest|format 99"):
        stage()


@pytest.mark.parametrize("key", ["summary", "files", "config", "content", "key", "self"])
def test_a_manifest_that_was_tampered_with_is_refused(stage: Stage, key: str) -> None:
    stage()
    path = stage.output / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest[key] = {} if isinstance(manifest[key], dict) else "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"changed after it was written"):
        stage()


def test_a_folder_with_something_else_is_refused_and_left_alone(stage: Stage) -> None:
    stage.output.mkdir()
    (stage.output / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        stage()
    assert [p.name for p in stage.output.iterdir()] == ["thesis.txt"]
    stage.output = stage.output / "thesis.txt"
    with pytest.raises(UserError, match="is a file"):
        stage()


def test_another_kind_of_artifact_is_refused(stage: Stage) -> None:
    stage()
    with pytest.raises(UserError, match="is a corpus, not a model"):
        open_artifact(stage.output, "model")
    other = Stage(stage.output, kind="tokens")
    with pytest.raises(UserError, match="is a corpus, not a tokens"):
        other()


def test_missing_and_unfinished_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_artifact(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        open_artifact(tmp_path)
    (tmp_path / artifact.UNFINISHED).write_text("{}")
    with pytest.raises(UserError, match="unfinished"):
        open_artifact(tmp_path)


def test_what_somebody_put_beside_the_files_is_never_deleted(tmp_path: Path) -> None:
    for kind in ("corpus", "model"):
        stage = Stage(tmp_path / kind, kind)
        stage()
        (stage.output / "mine").mkdir()
        (stage.output / "mine" / "weights").write_text("hours")
        with pytest.raises(UserError, match=r"mine/weights is not part of what would be rebuilt"):
            stage("b")
        assert (stage.output / "mine" / "weights").read_text() == "hours"
        assert open_artifact(stage.output)


def test_scratch_is_kept_until_the_manifest_is_there(tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, int]:
        (folder / "run" / "checkpoints").mkdir(parents=True)
        (folder / "run" / "checkpoints" / "a").write_text("x")
        (folder / "b").write_text("x")
        return {}

    made = build(tmp_path / "made", "model", {}, {}, make, scratch="run/checkpoints")
    assert list(made.manifest["files"]) == ["b"]
    assert not (tmp_path / "made" / "run" / "checkpoints").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_an_unfinished_model_is_not_thrown_away_for_other_settings(tmp_path: Path) -> None:
    def attempt(text: str) -> None:
        def make(folder: Path) -> dict[str, int]:
            (folder / "checkpoint").write_text(text)
            raise RuntimeError("cut off")

        build(tmp_path / "made", "model", Settings(tmp_path, text), {}, make, ignore=("output",))

    with pytest.raises(RuntimeError):
        attempt("a")
    with pytest.raises(UserError, match=r"with other settings \(text was a, now it is b\); delete it or name another"):
        attempt("b")
    (tmp_path / "made" / "unfinished.json").write_text("")
    with pytest.raises(UserError, match=r"unfinished\.json was not written by fromzero or is damaged"):
        attempt("a")
    assert (tmp_path / "made" / "checkpoint").read_text() == "a"


@pytest.mark.parametrize("content", ["5", "[]", "[" * 100_000])
def test_manifests_of_others_are_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    assert not artifact.is_artifact(tmp_path)


def test_an_unfinished_folder_goes_on_with_the_same_settings_and_starts_over_with_others(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def attempt(text: str, fail: bool) -> None:
        def make(folder: Path) -> dict[str, int]:
            seen.append(sorted(p.name for p in folder.iterdir()))
            (folder / "half").write_text(text)
            if fail:
                raise RuntimeError("cut off")
            return {}

        build(tmp_path / "made", "corpus", Settings(tmp_path, text), {}, make, ignore=("output",))

    for text in ("a", "a", "b"):
        with pytest.raises(RuntimeError):
            attempt(text, fail=True)
    attempt("b", fail=False)
    names = ["half", "unfinished.json"]
    assert seen == [["unfinished.json"], names, ["unfinished.json"], names]


def test_a_replaced_model_is_set_aside(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "made", kind="model")
    for text in ("a", "b", "c"):
        stage(text)
    assert (tmp_path / "made" / "sub" / "text.txt").read_text() == "c"
    assert (tmp_path / "made.previous" / "sub" / "text.txt").read_text() == "b"


_SLOW_STAGE = """
import sys, time
from pathlib import Path
from fromzero.artifact import build
def make(folder):
    (folder / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(60)
build(Path(sys.argv[1]), "corpus", {"a": 1}, {}, make)
"""


def test_two_processes_keep_out_of_each_others_way_and_a_kill_frees_the_folder(tmp_path: Path) -> None:
    output = tmp_path / "made"
    process = subprocess.Popen([sys.executable, "-c", _SLOW_STAGE, str(output)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"

    def make(folder: Path) -> dict[str, bool]:
        return {"went_on": (folder / "half").exists()}

    with pytest.raises(UserError, match="another process"):
        build(output, "corpus", {"a": 1}, {}, make)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(UserError, match="unfinished"):
        open_artifact(output)
    time.sleep(0.05)
    assert build(output, "corpus", {"a": 1}, {}, make).summary == {"went_on": True}


def test_digests_do_not_depend_on_when_or_where(tmp_path: Path) -> None:
    assert Stage(tmp_path / "a")().digest == Stage(tmp_path / "b")().digest
    assert Stage(tmp_path / "c")("other").digest != Stage(tmp_path / "a")().digest


def test_a_file_that_moves_to_another_folder_changes_the_digest(tmp_path: Path) -> None:
    """Folders may be classes: what moves is of another one."""
    for folder in ("ham", "spam"):
        (tmp_path / "texts" / folder).mkdir(parents=True)
        (tmp_path / "texts" / folder / f"{folder}.txt").write_text(folder)
    first = artifact.digest_source(tmp_path / "texts")
    (tmp_path / "texts" / "ham").rename(tmp_path / "texts" / "good")
    second = artifact.digest_source(tmp_path / "texts")
    (tmp_path / "texts" / "spam" / "spam.txt").rename(tmp_path / "texts" / "good" / "spam.txt")
    third = artifact.digest_source(tmp_path / "texts")
    assert len({first, second, third}) == 3
    (tmp_path / "texts").rename(tmp_path / "moved")
    assert artifact.digest_source(tmp_path / "moved") == third
    file = tmp_path / "moved" / "good" / "ham.txt"
    assert artifact.digest_source(file) == artifact.digest_source(file.rename(tmp_path / "ham.txt"))


def test_nothing_to_read_has_no_digest(tmp_path: Path) -> None:
    """Or what is not there yet would count as unchanged."""
    for nothing in (tmp_path, tmp_path / "none", Path("hf://org/name")):
        with pytest.raises(UserError, match="there is no file to read"):
            artifact.digest_source(nothing)
