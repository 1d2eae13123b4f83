"""Documents at URLs: the same corpus as from a folder here, whatever the server does."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
import s3fs

from fromzero import locations
from fromzero.artifact import open_artifact
from fromzero.corpus import CorpusConfig, build_corpus
from fromzero.corpus.document import UNOPENED
from fromzero.corpus.fetching import fetched
from fromzero.corpus.files import SourceFile, digest_inputs, find_files
from fromzero.errors import UserError
from fromzero.locations import cached
from tests.conftest import RunCommand
from tests.corpus.test_partitions import finished, start, wait_for_partitions
from tests.servers import Answer, files, hub, serving

Settings = Callable[..., CorpusConfig]
Essays = Callable[[int], list[str]]


@pytest.fixture
def documents(tmp_path: Path, essays: Essays, pdf: bytes) -> Path:
    """A folder with what is to be read, and what is to be passed over."""
    folder = tmp_path / "raw"
    for name in ("a/b", ".hidden", "made", "unfinished"):
        (folder / name).mkdir(parents=True)
    for number, text in enumerate(essays(9)):
        (folder / ("a/b" if number % 2 else "a") / f"第 {number}.txt").write_text(text, encoding="utf-8")
    (folder / "report.PDF").write_bytes(pdf)
    (folder / "photo.jpg").write_bytes(b"no text")
    for name in (".hidden/x.txt", ".x.txt", "made/x.txt", "unfinished/x.txt", "unfinished/unfinished.json"):
        (folder / name).write_text("passed over")
    (folder / "made" / "manifest.json").write_text('{\n  "fromzero_format": 1}')
    return folder


@pytest.fixture
def uploaded(s3: s3fs.S3FileSystem, documents: Path) -> Path:
    s3.put(str(documents), "bucket/raw", recursive=True)
    return Path("s3://bucket/raw")


def rejected(corpus: Path) -> dict[str, str]:
    rows = pyarrow.parquet.read_table(corpus / "rejected").to_pylist()
    return {row["source"]: row["reason"] for row in rows}


def test_the_same_corpus_as_from_a_folder(settings: Settings, documents: Path, uploaded: Path, tmp_path: Path) -> None:
    here = build_corpus(settings(inputs=(documents,)))
    there = build_corpus(settings(inputs=(uploaded,), output=Path("s3://bucket/corpus")))
    assert there.digest == here.digest == open_artifact(there.path).digest
    assert here.summary["documents"]["kept"] == 10
    assert find_files([uploaded], Path("out")).passed_over == find_files([documents], Path("out")).passed_over
    assert not list((tmp_path / "cache").rglob("fetched"))


def test_the_output_and_what_was_read_are_not_read(uploaded: Path, s3: s3fs.S3FileSystem) -> None:
    before = [file.url for file in find_files([uploaded], Path("out")).files]
    s3.pipe_file("bucket/raw/corpus/extra.txt", b"text")
    found = find_files([uploaded, uploaded / "a", uploaded / "report.PDF"], uploaded / "corpus")
    assert [file.url for file in found.files] == before


def test_another_run_sees_what_changed(settings: Settings, uploaded: Path, s3: s3fs.S3FileSystem) -> None:
    config = settings(inputs=(uploaded,))

    def digests() -> dict[str, str]:
        return digest_inputs(config.inputs, find_files(config.inputs, config.output))

    first = digests()
    assert digests() == first
    s3.pipe_file("bucket/raw/report.PDF", s3.cat_file("bucket/raw/report.PDF"))  # as it was, but newer
    assert digests() == first
    s3.pipe_file("bucket/raw/report.PDF", s3.cat_file("bucket/raw/report.PDF")[::-1])
    assert digests() != first


def test_web_servers_that_tell_nothing(essays: Essays, settings: Settings) -> None:
    """Neither the size nor anything that changes with the contents: the contents are read to know."""
    texts = essays(3)

    def answer(method: str, path: str) -> Answer:
        return 200, {"Content-Length": ""}, texts[int(path[1])].encode()

    with serving(answer) as address:
        inputs = [Path(f"{address}/{number}.txt?key=SECRET") for number in range(2)]
        found = find_files(inputs, Path("out"))
        first = digest_inputs(inputs, found)
        assert [file.source for file in found.files] == ["0.txt", "1.txt"]
        assert digest_inputs(inputs, find_files(inputs, Path("out"))) == first
        texts[1] = texts[2]
        assert digest_inputs(inputs, find_files(inputs, Path("out"))) != first
        corpus = build_corpus(settings(inputs=tuple(inputs)))
    assert corpus.summary["documents"]["kept"] == 2
    assert "SECRET" not in "".join(map(str, (first, found.passed_over, corpus.manifest)))


def test_what_can_not_be_fetched_costs_itself(
    essays: Essays, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "WAITS", (0.01,))
    contents = {f"{number}.txt": text.encode() for number, text in enumerate(essays(5))}
    usual = files(contents)

    def answer(method: str, path: str) -> Answer:
        status, headers, body = usual(method, path)
        if method == "GET" and path in ("/1.txt", "/3.txt"):
            return (500, {}, b"") if path == "/1.txt" else (status, headers, body[:-5])
        return status, headers, body

    with serving(answer) as address:
        corpus = build_corpus(settings(inputs=tuple(Path(f"{address}/{name}") for name in contents)))
    reasons = rejected(corpus.path)
    assert reasons.keys() == {"1.txt", "3.txt"}
    assert all(reason.startswith(UNOPENED) for reason in reasons.values())
    assert "500" in reasons["1.txt"]
    assert "bytes arrived" in reasons["3.txt"]
    assert corpus.summary["documents"]["kept"] == 3


def test_copies_are_in_their_folder_and_do_not_stay(tmp_path: Path) -> None:
    names = ["..\\..\\x.txt", "%2e%2e/x.txt", "a b.txt", "x" * 300 + ".txt", "'$(x)*.txt"]
    contents = dict.fromkeys(names, b"text")
    with serving(lambda method, path: (200, {}, contents[path[1:]])) as address:
        there = [SourceFile(Path("x"), name, "text", 4, f"{address}/{name.replace('%', '%25')}") for name in names]
        here = SourceFile(tmp_path / "own.txt", "own", "text", 4)
        here.path.write_text("own")
        failed: dict[Path, str] = {}
        seen = []
        for file in fetched([*there, here], tmp_path / "draft", failed):
            assert not any(path.exists() for path in seen)
            assert file.path == here.path or file.path.parent == tmp_path / "draft"
            assert file.path.suffix == ".txt"
            assert file.path.exists() or file.path in failed
            seen += [file.path] if file.url else []
    assert len(set(seen)) == len(names)
    assert list(failed.values()) == []
    assert here.path.exists()


def test_a_killed_build_goes_on(s3: s3fs.S3FileSystem, essays: Essays) -> None:
    for number, text in enumerate(essays(24)):
        s3.pipe_file(f"bucket/in/{number}.txt", text.encode())
    url = "s3://bucket/corpus"
    work = cached("builds", url)
    process = start(Path("s3://bucket/in"), Path(url))
    wait_for_partitions(process, work, 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = finished(work)
    assert before
    assert not s3.exists("bucket/corpus/manifest.json")
    process = start(Path("s3://bucket/in"), Path(url))
    wait_for_partitions(process, work, len(before) + 1)
    assert {name: when for name, when in finished(work).items() if name in before} == before
    assert process.wait() == 0, process.communicate()
    assert open_artifact(Path(url)).summary["documents"]["kept"] == 24


def test_a_hub(essays: Essays, command: RunCommand, tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in essays(4))
    contents = {"README.md": essays(5)[4].encode(), "data/train.jsonl": lines.encode()}
    with serving(hub(contents)) as address:
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        urls = ["hf://datasets/org/name", "hf://datasets/org/name/data/train.jsonl"]
        output = tmp_path / "corpus"
        done = command("corpus", "build", "--inputs", *urls, "--output", output, env=environment)
    assert done.returncode == 0, done.stderr
    made = open_artifact(output)
    assert made.summary["documents"]["kept"] == 5
    assert list(made.manifest["inputs"]) == ["0: name", "1: train.jsonl"]


def test_faults_are_told_before_the_work(command: RunCommand, s3: s3fs.S3FileSystem, tmp_path: Path) -> None:
    for url, message in {
        "s3://nobody/raw": "s3://nobody/raw: there is no such file or folder; check the address",
        "http://127.0.0.1:1/a.txt": "http://127.0.0.1:1/a.txt: can't be reached",
        "ftp://host/a.txt": "'ftp' is not a kind of URL that is understood",
        "s3://bucket": "s3://bucket: no files to read there",
    }.items():
        with pytest.raises(UserError, match=message):
            find_files([Path(url)], Path("out"))
    done = command("corpus", "build", "--inputs", "http://me:SECRET@127.0.0.1:1/a.txt", "--output", tmp_path / "x")
    assert done.returncode == 2
    assert "http://***@127.0.0.1:1/a.txt: can't be reached" in done.stderr
    assert "SECRET" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
