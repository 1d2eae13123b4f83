"""The walk over inputs that are not as they should be."""

import os
from pathlib import Path

import pytest

from fromzero.corpus.document import UNOPENED, category
from fromzero.corpus.files import KINDS, find_files
from fromzero.corpus.settings import CorpusConfig
from fromzero.corpus.worker import WorkSettings, process

SETTINGS = WorkSettings.of(CorpusConfig((Path("in"),), Path("out")))


def test_loops_and_what_is_no_file_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("text")
    (folder / "deep" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "again.txt").symlink_to(folder / "deep" / "a.txt")
    (folder / "itself.txt").symlink_to(folder / "itself.txt")
    (folder / "nowhere.txt").symlink_to(folder / "missing.txt")
    os.mkfifo(folder / "pipe.txt")
    found = find_files([folder, folder], tmp_path / "out")
    assert [file.source for file in found.files] == ["in/again.txt"]
    assert found.passed_over == {"links that lead nowhere, pipes and devices": 3}


@pytest.mark.parametrize("suffix", sorted(KINDS))
@pytest.mark.parametrize("data", [b"", b"x", b"\n", b"\0", "字".encode()], ids=["empty", "x", "newline", "zero", "字"])
def test_empty_and_tiny_files_of_every_kind_are_rejected_by_name(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    answers = list(process(path, KINDS[suffix], SETTINGS))
    assert all(answer.get("reason") for answer in answers)
    assert answers or suffix in (".jsonl", ".ndjson", ".warc", ".wet", ".csv", ".tsv", ".tar"), "lost silently"


def test_a_file_that_is_gone_or_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    for name in ("gone.txt", "folder.txt", "gone.txt/below.txt"):
        (answer,) = process(tmp_path / name, "text", SETTINGS)
        assert category(answer["reason"]) == UNOPENED


def test_a_line_of_many_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("word " * 6_000_000)
    answers = list(process(path, "text", SETTINGS))
    assert len(answers) >= 150
    assert sum(len(answer["text"]) for answer in answers) > 29_000_000


def test_records_with_the_same_id_are_all_read(tmp_path: Path, chinese: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"id": 1, "text": "{n} {chinese}"}}\n' for n in range(3)))
    answers = list(process(path, "jsonl", SETTINGS))
    assert [answer["meta"]["id"] for answer in answers] == ["1"] * 3
    assert len({answer["id"] for answer in answers}) == 3
    assert [answer["finished"] for answer in answers] == [1, 2, 3]
    skipped = list(process(path, "jsonl", SETTINGS, 2))
    assert skipped == [{"skipped": ""}, answers[2]]
