"""Artifacts at URLs, on a server that speaks S3: the rules of folders here hold there as well."""

import json
import shutil
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import s3fs

from fromzero import locations
from fromzero.artifact import Artifact, build, here, is_artifact, open_artifact
from fromzero.corpus.examples import read_examples
from fromzero.dataset import PackConfig, pack
from fromzero.errors import UserError
from fromzero.evaluation import EvaluationConfig, evaluate
from fromzero.explain import ReportConfig, write_report
from fromzero.files import digest_of
from fromzero.interop import load_model
from fromzero.model import ModelConfig
from fromzero.tokenizer import load_tokenizer
from fromzero.training import PretrainConfig, TrainConfig, pretrain
from fromzero.tuning.chat import ChatConfig, finetune_chat
from fromzero.tuning.questions import QuestionsConfig, make_questions
from tests.conftest import Chain

MADE = Path("s3://bucket/runs/made")


@dataclass(frozen=True)
class Settings:
    """Settings of a stage for tests."""

    output: Path
    text: str
    source: Path = Path("https://me:SECRET@host/a.txt?signature=SECRET")


class Stage:
    """Writes two files, one of them named after its text, and counts how often it ran."""

    def __init__(self) -> None:
        self.runs, self.during = 0, lambda: None

    def __call__(self, text: str = "a", kind: str = "corpus", output: Path = MADE) -> Artifact:
        def make(folder: Path) -> dict[str, int]:
            self.runs += 1
            self.during()
            (folder / "sub").mkdir(exist_ok=True)
            (folder / "sub" / f"{text}.txt").write_text(text)
            (folder / "same.txt").write_text("same")
            return {"runs": self.runs}

        return build(output, kind, Settings(output, text), {}, make, ignore=("output", "source"))


@pytest.fixture
def stage(s3: s3fs.S3FileSystem) -> Stage:
    return Stage()


def names(s3: s3fs.S3FileSystem, folder: str = "bucket/runs/made") -> list[str]:
    s3.invalidate_cache()
    return [name.removeprefix(folder + "/") for name in s3.find(folder)]


def elsewhere(tmp_path: Path) -> None:
    """Make this another machine: one with an empty cache."""
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def test_built_here_and_opened_anywhere(s3: s3fs.S3FileSystem, stage: Stage, tmp_path: Path) -> None:
    made = stage()
    assert (made.path, str(made)) == (MADE, "s3://bucket/runs/made")
    assert names(s3) == ["manifest.json", "same.txt", "sub/a.txt"]
    assert here(MADE).is_relative_to(tmp_path / "cache" / "fromzero" / "builds")
    elsewhere(tmp_path)
    opened = open_artifact(MADE, "corpus")
    assert (opened.digest, opened.summary) == (made.digest, {"runs": 1})
    assert opened.path.is_relative_to(tmp_path / "cache" / "fromzero" / "downloads")
    assert (opened.path / "sub" / "a.txt").read_text() == "a"
    assert "SECRET" not in (opened.path / "manifest.json").read_text()
    elsewhere(tmp_path)
    with pytest.raises(UserError, match="is a corpus, not a model"):
        open_artifact(MADE, "model")
    assert not (tmp_path / "cache").exists()


def test_what_is_up_to_date_is_neither_made_nor_fetched(stage: Stage, tmp_path: Path) -> None:
    first = stage()
    elsewhere(tmp_path)
    assert stage().digest == first.digest
    assert stage.runs == 1
    assert not (tmp_path / "cache").exists()


def test_a_rebuild_replaces_what_was_there(s3: s3fs.S3FileSystem, stage: Stage, tmp_path: Path) -> None:
    stage()
    open_artifact(MADE)
    stage("b")
    assert names(s3) == ["manifest.json", "same.txt", "sub/b.txt"]
    elsewhere(tmp_path)
    assert not (open_artifact(MADE).path / "sub" / "a.txt").exists()
    stage("model", kind="model", output=MADE.with_name("model"))
    with pytest.raises(UserError, match="holds a model made otherwise; name another folder"):
        stage("other", kind="model", output=MADE.with_name("model"))
    with pytest.raises(UserError, match="holds a corpus made otherwise"):
        stage("b", kind="tokens")


def test_an_upload_that_failed_goes_on(s3: s3fs.S3FileSystem, stage: Stage) -> None:
    stage.during = lambda: s3.rm("bucket", recursive=True)
    with pytest.raises(UserError, match="s3://bucket/runs/made: there is no such file or folder"):
        stage()
    s3.mkdir("bucket")
    s3.pipe_file("bucket/runs/made/unfinished.json", b"{}")
    with pytest.raises(UserError, match=r"no manifest\.json, so there is no finished corpus"):
        open_artifact(MADE, "corpus")
    stage()
    assert stage.runs == 1
    assert names(s3) == ["manifest.json", "same.txt", "sub/a.txt"]


def test_a_download_that_failed_goes_on(s3: s3fs.S3FileSystem, stage: Stage, tmp_path: Path) -> None:
    stage()
    elsewhere(tmp_path)
    s3.rm_file("bucket/runs/made/sub/a.txt")
    with pytest.raises(UserError, match=r"made/sub/a\.txt: there is no such file or folder"):
        open_artifact(MADE)
    assert not any(is_artifact(folder) for folder in (tmp_path / "cache").rglob("*"))
    s3.rm_file("bucket/runs/made/same.txt")  # is not needed any more
    s3.pipe_file("bucket/runs/made/sub/a.txt", b"a")
    assert (open_artifact(MADE).path / "same.txt").read_text() == "same"


def test_damage_is_reported(
    s3: s3fs.S3FileSystem, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "WAITS", ())
    stage()
    elsewhere(tmp_path)
    s3.pipe_file("bucket/runs/made/same.txt", b"evil")
    with pytest.raises(UserError, match=r"made/same\.txt does not match its hash in manifest\.json"):
        open_artifact(MADE)
    s3.pipe_file("bucket/runs/made/same.txt", b"longer than it was")
    with pytest.raises(UserError, match="18 of 4 bytes arrived"):
        open_artifact(MADE)
    for data, message in ((b"{", "can't be read"), (b"[]", "is not a manifest"), (b"[" * 10**5, "can't be read")):
        s3.pipe_file("bucket/runs/made/manifest.json", data)
        with pytest.raises(UserError, match=message):
            open_artifact(MADE)
        with pytest.raises(UserError, match=message):
            stage()


FILE = {"bytes": 4, "sha256": "0"}


@pytest.mark.parametrize(
    ("lies", "message"),
    [
        ([{name: FILE} for name in ("../../../../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..")], "of its own"),
        ([5, {"a": 1}, {"a": {}}, {"a": {"bytes": "x", "sha256": 3}}, None], "entries are missing"),
    ],
)
def test_manifests_that_lie(s3: s3fs.S3FileSystem, stage: Stage, tmp_path: Path, lies: list[Any], message: str) -> None:
    stage()
    elsewhere(tmp_path)
    manifest = json.loads(s3.cat_file("bucket/runs/made/manifest.json"))
    del manifest["self"]
    for files in lies:
        lying = manifest | {"files": files}
        s3.pipe_file("bucket/runs/made/manifest.json", json.dumps(lying | {"self": digest_of(lying)}).encode())
        with pytest.raises(UserError, match=message):
            open_artifact(MADE)
    assert not list(tmp_path.rglob("evil*"))


def test_what_can_not_be_written_is_said_before_the_work(
    s3: s3fs.S3FileSystem, s3_server: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.pipe_file("bucket/theirs/", b"")  # as the console of S3 makes a folder
    s3.pipe_file("bucket/theirs/notes.txt", b"mine")
    with pytest.raises(UserError, match="holds something else than a corpus; name another folder"):
        stage(output=Path("s3://bucket/theirs"))
    with pytest.raises(UserError, match="s3://nobody/made: there is no such file or folder"):
        stage(output=Path("s3://nobody/made"))
    with pytest.raises(UserError, match=r"http://127.0.0.1:1/made/manifest\.json: can't be reached"):
        stage(output=Path("http://127.0.0.1:1/made"))
    start = time.monotonic()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"can't be reached .*check the address and the network"):
        stage()
    assert time.monotonic() - start < 10
    assert stage.runs == 0


def test_an_empty_folder_is_no_stranger(s3: s3fs.S3FileSystem, stage: Stage) -> None:
    s3.pipe_file("bucket/runs/made/", b"")
    stage()
    assert stage.runs == 1


def test_wrong_credentials(s3: s3fs.S3FileSystem, s3_server: str, stage: Stage) -> None:
    def check_credentials(after_requests: str) -> None:
        url, headers = f"{s3_server}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, after_requests.encode(), headers)).close()

    check_credentials("0")
    try:
        with pytest.raises(UserError, match=r"access was refused .*give credentials in the environment"):
            stage()
    finally:
        check_credentials("inf")
    assert stage.runs == 0


def test_every_stage_takes_urls(
    s3: s3fs.S3FileSystem, chain: Chain, tiny_model: Path, conversations: Path, tmp_path: Path
) -> None:
    there = Path("s3://bucket/runs")
    folders = {"corpus": chain.corpus, "tokenizer": chain.tokenizer_folder, "tokens": chain.tokens, "base": tiny_model}
    for name, folder in folders.items():
        s3.put(str(folder), f"bucket/runs/{name}", recursive=True)
    short = TrainConfig(steps=1, batch_size=2, warmup_steps=1, dtype="float32")
    corpus, tokenizer, base = there / "corpus", there / "tokenizer", there / "base"
    packed = pack(PackConfig(corpus, tokenizer, there / "tokens"))
    assert packed.digest == open_artifact(chain.tokens).digest
    shape = ModelConfig(layers=1, width=32, heads=2, context=64)
    pretrain(PretrainConfig(there / "tokens", there / "new", shape, short, sample_points=0))
    assert load_model(here(there / "new")).parameter_count() == load_model(tiny_model).parameter_count()
    assert "model" in evaluate(EvaluationConfig(base, corpus, there / "scores", max_bytes=1000)).manifest["inputs"]
    made = make_questions(QuestionsConfig(corpus, there / "questions"))
    assert made.summary["train"] > 0
    chat = ChatConfig(model=base, conversations=there / "questions", output=there / "chat", train=short, graded=0)
    tuned = finetune_chat(chat)
    assert str(tuned) == "s3://bucket/runs/chat"
    report = write_report(ReportConfig(there))
    assert len(report.manifest["inputs"]) == 8
    assert "unfinished.json" not in names(s3, "bucket/runs")
    assert load_tokenizer(tokenizer).vocab_size == chain.tokenizer.vocab_size
    assert read_examples([corpus], 1000) == read_examples([chain.corpus], 1000)
