"""Files in groups: what is finished stays finished, and who read which group can't be seen in the corpus."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from fromzero.artifact import open_artifact
from fromzero.corpus import CorpusConfig, build_corpus, partitions, pipeline, read_corpus
from fromzero.corpus.files import SourceFile
from fromzero.corpus.masking import Masking
from fromzero.corpus.near_duplicates import MinHash
from fromzero.corpus.partitions import partition

Settings = Callable[..., CorpusConfig]
SMALL = "from fromzero.corpus import partitions; partitions.AT_LEAST = 2000; "
BUILD = SMALL + "from fromzero.commands import main; import sys; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def documents(tmp_path: Path, essays: Callable[[int], list[str]]) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, text in enumerate(essays(60)):
        (folder / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    (folder / "100.txt").write_text(essays(60)[7], encoding="utf-8")
    return folder


def start(folder: Path, output: Path) -> "subprocess.Popen[str]":
    line = [sys.executable, "-c", BUILD, "corpus", "build", "--inputs", f"[{folder}]", "--output", str(output)]
    return subprocess.Popen(
        [*line, "--near_duplicates", "null"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finished(output: Path) -> dict[str, int]:
    folders = [f for f in output.glob(pipeline.WORK + "/*") if f.name.isdigit()]
    return {folder.name: (folder / "counts.json").stat().st_mtime_ns for folder in folders}


def wait_for_partitions(process: "subprocess.Popen[str]", output: Path, count: int) -> None:
    while len(finished(output)) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def test_groups_depend_on_the_files_alone() -> None:
    files = [
        SourceFile(Path(str(n)), str(n), "text", size) for n, size in enumerate([900_000, 200_000, 9, 5_000_000, 1])
    ]
    groups = [[file.source for file in part.files] for part in partition(files, Path("w"))]
    assert groups == [["0"], ["1", "2"], ["3"], ["4"]]
    assert [part.folder.name for part in partition(files, Path("w"))] == ["00000", "00001", "00002", "00003"]
    large = [SourceFile(Path(), "", "text", 10_000_000)] * 640
    assert len(partition(large, Path())) == partitions.ABOUT


def test_many_partitions_give_the_corpus_of_one(
    documents: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build_corpus(settings(output=tmp_path / "whole"))
    monkeypatch.setattr(partitions, "AT_LEAST", 2000)
    for workers in (1, 3):
        parts = build_corpus(settings(output=tmp_path / f"parts{workers}", workers=workers))
        assert parts.digest == whole.digest
        assert not (parts.path / pipeline.WORK).exists()
    assert whole.summary["documents"]["kept"] == 60
    assert [row["reason"] for row in whole.summary["funnel"]] == ["duplicate"]


def test_the_order_of_the_inputs_can_not_be_seen(documents: Path, settings: Settings, tmp_path: Path) -> None:
    other = tmp_path / "a"
    other.mkdir()
    (other / "x.txt").write_text((documents / "003.txt").read_text())
    one = build_corpus(settings(inputs=(documents, other), output=tmp_path / "one"))
    two = build_corpus(settings(inputs=(other, documents), output=tmp_path / "two"))
    assert one.digest == two.digest


def test_a_killed_build_goes_on_from_its_partitions(
    documents: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = build_corpus(settings(output=tmp_path / "expected"))
    output = tmp_path / "killed"
    process = start(documents, output)
    wait_for_partitions(process, output, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = finished(output)
    kept: dict[str, int] = {}
    monkeypatch.setattr(partitions, "AT_LEAST", 2000)
    monkeypatch.setattr(pipeline, "_distinct", lambda *a, f=pipeline._distinct: kept.update(finished(output)) or f(*a))
    assert build_corpus(settings(output=output)).digest == expected.digest
    assert before.items() <= kept.items()
    assert len(kept) > len(before)


def test_a_build_outlives_a_killed_worker(documents: Path, settings: Settings, tmp_path: Path) -> None:
    expected = build_corpus(settings(output=tmp_path / "expected"))
    output = tmp_path / "robbed"
    process = start(documents, output)
    wait_for_partitions(process, output, 2)
    for status in Path("/proc").glob("[0-9]*/stat"):
        if status.read_text().rpartition(")")[2].split()[1] == str(process.pid):  # a child
            os.kill(int(status.parent.name), signal.SIGKILL)
            break
    else:
        pytest.fail("there was no worker to kill")
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert open_artifact(output, "corpus").digest == expected.digest


def test_on_ray_the_corpus_is_the_same(documents: Path, settings: Settings, tmp_path: Path) -> None:
    expected = build_corpus(settings(output=tmp_path / "expected"))
    output = tmp_path / "ray"
    line = [sys.executable, "-c", BUILD, "corpus", "build", "--inputs", f"[{documents}]", "--output", str(output)]
    done = subprocess.run([*line, "--engine", "ray"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert open_artifact(output, "corpus").digest == expected.digest


def test_of_nearly_equal_texts_the_longest_is_kept(
    settings: Settings, tmp_path: Path, novel: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    text = novel(1000)
    other = novel(2000)[len(text) :]
    for name, content in (
        ("a", text),
        ("b", text + " And so it ends."),
        ("c", other),
        ("d", text.replace("hills", "Hills", 1)),
    ):
        (tmp_path / "in" / f"{name}.txt").write_text(content)
    monkeypatch.setattr(partitions, "AT_LEAST", 1)
    corpus = build_corpus(settings(near_duplicates=MinHash()))
    rows = pyarrow.parquet.read_table(corpus.path / "rejected").to_pylist()
    sides = (read_corpus(corpus.path, "train"), read_corpus(corpus.path, "validation"))
    (kept,) = (d.id for d in itertools.chain(*sides) if d.source == "in/b.txt")
    reason = f"near duplicate: of {kept}"
    assert {row["source"]: row["reason"] for row in rows} == {"in/a.txt": reason, "in/d.txt": reason}
    assert corpus.summary["documents"]["kept"] == 2
    monkeypatch.setattr(partitions, "AT_LEAST", 10**9)
    whole = build_corpus(settings(near_duplicates=MinHash(), output=tmp_path / "whole"))
    assert whole.digest == corpus.digest


def test_personal_data_is_masked_and_counted(
    settings: Settings, tmp_path: Path, essays: Callable[[int], list[str]]
) -> None:
    (tmp_path / "in").mkdir()
    for number, text in enumerate(essays(3)):
        (tmp_path / "in" / f"{number}.txt").write_text(f"{text} me{number}@mail.example.org", encoding="utf-8")
    corpus = build_corpus(settings(masking=Masking()))
    texts = [document.text for side in ("train", "validation") for document in read_corpus(corpus.path, side)]
    assert all(text.endswith("[email]") for text in texts)
    assert corpus.summary["masked"] == {"email": 3}
    assert build_corpus(settings(output=tmp_path / "plain")).summary["masked"] == {}
