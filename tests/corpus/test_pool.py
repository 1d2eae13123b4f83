"""Real child processes on real hostile files."""

import io
import json
import os
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.corpus.document import CRASHED, DAMAGED, OUT_OF_MEMORY, TIMED_OUT, category
from fromzero.corpus.files import KINDS, SourceFile
from fromzero.corpus.pool import FILES_AHEAD, QUEUE_FRAMES, Pool
from fromzero.corpus.settings import CorpusConfig, Limits
from fromzero.corpus.worker import WorkSettings, read_frame, write_frame


def source(path: Path) -> SourceFile:
    return SourceFile(path, path.name, KINDS[path.suffix], path.stat().st_size)


def parse(paths: list[Path], workers: int = 2, **limits: Any) -> dict[str, list[dict[str, Any]]]:
    settings = WorkSettings.of(CorpusConfig((Path("in"),), Path("out"), limits=Limits(**limits)))
    answers: dict[str, list[dict[str, Any]]] = {}
    with Pool(settings, workers) as pool:
        for file, answer in pool.parse([source(path) for path in paths]):
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
    answers = parse([first, archive, after], workers=1, parse_seconds=5)
    assert reasons(answers) == {
        "a.txt": [None],
        "b.zip!/good.txt": [None],
        "b.zip!/slow.html": [TIMED_OUT],
        "b.zip!/more.txt": [None],
        "c.txt": [None],
    }


def test_memory_is_bounded(tmp_path: Path, chinese: str) -> None:
    big, after = tmp_path / "a.json", tmp_path / "b.txt"
    big.write_text(f"[{'{},' * 14_000_000}{{}}]")  # 42 MB of JSON, a gigabyte of objects
    after.write_text(chinese * 2)
    answers = reasons(parse([big, after], workers=1, parse_memory_bytes=1_000_000_000))
    assert answers == {"a.json": [OUT_OF_MEMORY], "b.txt": [None]}


def test_a_dead_child_costs_one_document(tmp_path: Path, chinese: str) -> None:
    long, after = tmp_path / "a.jsonl", tmp_path / "b.txt"
    long.write_text("".join(json.dumps({"text": f"{i} {chinese}"}) + "\n" for i in range(2_000)))
    after.write_text(chinese * 2)
    settings = WorkSettings.of(CorpusConfig((Path("in"),), Path("out")))
    seen: list[tuple[str, str | None]] = []
    with Pool(settings, 1) as pool:
        for file, answer in pool.parse([source(long), source(after)]):
            if answer is not None:
                seen.append((file.source, answer["reason"]))
                if len(seen) == 5:
                    pool.children[0].process.kill()
    assert seen[:5] == [("a.jsonl", None)] * 5
    assert [reason for _, reason in seen].count(CRASHED) == 1
    assert len(seen) == 2_001
    assert seen[-1] == ("b.txt", None)


def test_order_and_answers_do_not_depend_on_workers(tmp_path: Path, english: str, chinese: str) -> None:
    paths = []
    for number in range(60):
        path = tmp_path / f"{number:02d}.txt"
        path.write_text((english if number % 2 else chinese) * (1 + number % 5) + str(number))
        paths.append(path)
    assert list(parse(paths, 1).items()) == list(parse(paths, 3).items())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts children in /proc")
def test_leaving_early_ends_the_children_at_once(tmp_path: Path, chinese: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i} {chinese}"}) + "\n" for i in range(20_000)))
    before, threads = children(), threading.active_count()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _interrupt_after(10, [source(path)] * 3)
    assert time.monotonic() - started < 5  # a child needs a second to start
    assert threading.active_count() == threads
    assert [pid for pid in children() if pid not in before and not _zombie(pid)] == []


def _interrupt_after(answers: int, files: list[SourceFile]) -> None:
    with Pool(WorkSettings.of(CorpusConfig((Path("in"),), Path("out"))), 2) as pool:
        for number, _ in enumerate(pool.parse(files)):
            if number == answers:
                raise KeyboardInterrupt


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_slow_consumer_holds_the_children_back(tmp_path: Path, chinese: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i} {chinese}"}) + "\n" for i in range(5_000)))
    with Pool(WorkSettings.of(CorpusConfig((Path("in"),), Path("out"))), 2) as pool:
        answers = pool.parse([source(path)] * 40)
        next(answers)
        time.sleep(1.5)
        assert pool.order.qsize() < FILES_AHEAD * 2
        assert all(waiting.qsize() <= QUEUE_FRAMES for waiting in list(pool.order.queue))
        answers.close()


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
