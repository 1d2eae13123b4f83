"""Real child processes on real hostile files."""

import io
import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.corpus import pool
from fromzero.corpus.document import CRASHED, DAMAGED, OUT_OF_MEMORY, TIMED_OUT, category
from fromzero.corpus.files import KINDS, SourceFile
from fromzero.corpus.pool import parser
from fromzero.corpus.settings import CorpusConfig, Limits
from fromzero.corpus.worker import WorkSettings, read_frame, write_frame


def source(path: Path) -> SourceFile:
    return SourceFile(path, path.name, KINDS[path.suffix], path.stat().st_size)


def parse(paths: list[Path], **limits: Any) -> dict[str, list[dict[str, Any]]]:
    settings = WorkSettings.of(CorpusConfig((Path("in"),), Path("out"), limits=Limits(**limits)))
    answers: dict[str, list[dict[str, Any]]] = {}
    with parser(settings) as parsing:
        for file, answer in parsing.parse([source(path) for path in paths]):
            if answer is not None:
                answers.setdefault(file.source, []).append(answer)
    return answers


def reasons(answers: dict[str, list[dict[str, Any]]]) -> dict[str, list[str | None]]:
    return {name: [a["reason"] and category(a["reason"]) for a in each] for name, each in answers.items()}


def children() -> list[int]:
    return [int(p) for p in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_a_hanging_document_costs_that_document(tmp_path: Path, chinese: str) -> None:
    first, archive, after = tmp_path / "a.txt", tmp_path / "b.zip", tmp_path / "c.txt"
    first.write_text(chinese * 2)
    after.write_text(chinese * 3)
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("good.txt", chinese * 4)
        members.writestr("slow.html", "<div>" * 30_000)  # resiliparse takes the square of the depth
        members.writestr("more.txt", chinese * 5)
    answers = parse([first, archive, after], parse_seconds=2)
    assert reasons(answers) == {
        "a.txt": [None],
        "b.zip!/good.txt": [None],
        "b.zip!/slow.html": [TIMED_OUT],
        "b.zip!/more.txt": [None],
        "c.txt": [None],
    }


HUNGRY = f"[{'{},' * 4_000_000}{{}}]"  # 12 MB of JSON, 300 of objects


def test_memory_is_bounded_and_a_file_that_kills_is_given_up(
    tmp_path: Path, chinese: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_DEATHS", 2)
    good = [json.dumps({"text": f"{n} {chinese}"}) for n in range(5)]
    killers, after = tmp_path / "a.jsonl", tmp_path / "b.txt"
    killers.write_text("\n".join([good[0], HUNGRY, good[1], good[2], HUNGRY, good[3], HUNGRY, good[4]]))
    after.write_text(chinese * 2)
    answers = parse([killers, after], parse_memory_bytes=600_000_000)
    given_up = [None, OUT_OF_MEMORY, None, None, OUT_OF_MEMORY]
    assert reasons(answers) == {"a.jsonl": given_up, "b.txt": [None]}
    assert answers["a.jsonl"][-1]["reason"].endswith("in this file; the rest is given up")
    assert [a["text"][0] for a in answers["a.jsonl"] if "text" in a] == ["0", "1", "2"]


def test_a_dead_child_costs_one_document(tmp_path: Path, chinese: str) -> None:
    long, after = tmp_path / "a.jsonl", tmp_path / "b.txt"
    long.write_text("".join(json.dumps({"text": f"{i} {chinese}"}) + "\n" for i in range(2_000)))
    after.write_text(chinese * 2)
    settings = WorkSettings.of(CorpusConfig((Path("in"),), Path("out")))
    seen: list[tuple[str, str | None]] = []
    with parser(settings) as parsing:
        for file, answer in parsing.parse([source(long), source(after)]):
            if answer is not None:
                seen.append((file.source, answer["reason"]))
                if len(seen) == 5:
                    parsing.process.kill()
    assert seen[:5] == [("a.jsonl", None)] * 5
    assert [reason for _, reason in seen].count(CRASHED) == 1
    assert len(seen) == 2_001
    assert seen[-1] == ("b.txt", None)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts children in /proc")
def test_leaving_early_ends_the_children_at_once(tmp_path: Path, chinese: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i} {chinese}"}) + "\n" for i in range(20_000)))
    before = children()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _interrupt_after(10, [source(path)] * 3)
    assert time.monotonic() - started < 5  # a child needs a second to start
    assert [pid for pid in children() if pid not in before and not _zombie(pid)] == []


def _interrupt_after(answers: int, files: list[SourceFile]) -> None:
    with parser(WorkSettings.of(CorpusConfig((Path("in"),), Path("out")))) as parsing:
        for number, _ in enumerate(parsing.parse(files)):
            if number == answers:
                raise KeyboardInterrupt


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_library_that_prints_does_not_disturb_the_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.4\n" + os.urandom(20_000))
    assert reasons(parse([path])) == {"a.pdf": [DAMAGED]}


@pytest.mark.parametrize(
    "data", [b"x\n{}\n", b"5\n{}\n", b"2\n{}x", b"99999999999999999999999\n", b"-1\n{}\n", b"2\n[[\n"]
)
def test_frames_that_are_not_whole(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_frame(io.BytesIO(data), 1000)


@given(st.dictionaries(st.text(), st.text()))
def test_frames_come_back(value: dict[str, str]) -> None:
    stream = io.BytesIO()
    write_frame(stream, value)
    stream.seek(0)
    assert read_frame(stream, 1 << 20) == value
    assert read_frame(stream, 1 << 20) is None
