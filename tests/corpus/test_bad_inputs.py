"""A folder of everything that can be wrong with documents: nothing stops the build, and nothing is lost silently."""

import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet
import pytest

from fromzero.artifact import Artifact
from fromzero.corpus import CorpusConfig, build_corpus, partitions
from fromzero.corpus.document import (
    BAD_RECORD,
    BINARY,
    DAMAGED,
    DOCUMENT_TOO_LARGE,
    DUPLICATE,
    EMPTY,
    ENCRYPTED,
    REPLACED,
    TOO_LARGE,
    TOO_SHORT,
    UNOPENED,
    UNPACKED_TOO_LARGE,
    category,
)
from fromzero.corpus.settings import Limits
from tests.corpus.conftest import CHINESE, make_pdf, shuffled
from tests.corpus.test_archives import tarred, zipped
from tests.corpus.test_pdf import ENCRYPTED_ENTRY, LEFT, column, draw
from tests.corpus.test_pipeline import check_counts, everything
from tests.corpus.test_warc import response

LIMITS = Limits(file_bytes=4_000_000, document_bytes=1_000_000, unpacked_ratio=50, parse_memory_bytes=600_000_000)
ZEROS = b" " * 8_000_000
LONG_LINE = b"x" * 100_000_000


def essay(number: int) -> str:
    return f"第{number}篇。{shuffled(CHINESE, 150, number)}"


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


KIDS = b"/Kids [5 0 R] /Count 1"
PAGE = draw([column(50, 700, LEFT)])
BOMB = zlib.compress(zlib.compress(b" " * 150_000_000, 1), 1)
STREAM = b"6 0 obj << /Length %d /Filter [/FlateDecode /FlateDecode] >>\nstream\n" % len(BOMB)
STREAM += BOMB + b"\nendstream endobj\n"
# Each file, and what has to be said of each of its records: a reason, or that it is kept.
KEPT, STOPPED = "kept", "stopped"
FILES: dict[str, tuple[bytes, Sequence[str]]] = {
    "truncated.pdf": (make_pdf("text " * 99)[:500], [DAMAGED]),
    "encrypted.pdf": (draw([column(50, 700, LEFT)], ENCRYPTED_ENTRY), [ENCRYPTED]),
    "loop.pdf": (PAGE.replace(KIDS, b"/Kids [2 0 R] /Count 9"), [DAMAGED]),
    "count.pdf": (PAGE.replace(KIDS, b"/Kids [5 0 R] /Count 99999999"), [KEPT]),
    "bomb.pdf": (PAGE[: PAGE.index(b"6 0 obj")] + STREAM + PAGE[PAGE.index(b"trailer") :], [STOPPED]),
    "bomb.txt.gz": (gzip.compress(ZEROS), [UNPACKED_TOO_LARGE]),
    "bomb.zip": (zipped({"a.txt": essay(0).encode(), "b.zip": zipped({"b.html": ZEROS})}), [KEPT, UNPACKED_TOO_LARGE]),
    "bomb.warc.gz": (gzip.compress(response(ZEROS, "text/html")), [UNPACKED_TOO_LARGE]),
    "bomb.html": (b"<table><tr><td>" * 100_000 + b"deep", [STOPPED]),
    "climb.zip": (zipped({"../../climbed.txt": essay(1).encode()}), [KEPT]),
    "climb.tar": (tarred({"../climbed.txt": essay(2).encode(), "/tmp/climbed.txt": essay(3).encode()}), [KEPT, KEPT]),
    "empty.txt": (b"", [EMPTY]),
    "one.txt": (b"x", [TOO_SHORT]),
    "one.md": ("字".encode(), [TOO_SHORT]),
    "line.html": (ZEROS, [TOO_LARGE]),
    "line.jsonl": (
        lines({"text": essay(4)}) + LONG_LINE + b"\n" + lines({"text": essay(5)}),
        [KEPT, DOCUMENT_TOO_LARGE, KEPT],
    ),
    "line.csv": (
        f"text\n{essay(6)}\n".encode() + ZEROS + f"\n{essay(7)}\n".encode(),
        [KEPT, DOCUMENT_TOO_LARGE, KEPT],
    ),
    "mixed.txt": ((essay(8) + "\n").encode() * 2 + essay(8).encode("gb18030"), [REPLACED]),
    "mixed.jsonl": (
        lines({"text": essay(9)}) + lines({"text": essay(10)}).decode().encode("gb18030") + lines({"text": essay(11)}),
        [KEPT, REPLACED, KEPT],
    ),
    "program.txt": (b"\x7fELF" + bytes(999), [BINARY]),
    "records.jsonl": (
        lines({"id": 1, "text": essay(12)}, {"id": 1, "text": essay(13)}, {"id": 1, "text": essay(12)}, {"id": 1}),
        [KEPT, KEPT, DUPLICATE, BAD_RECORD],
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("bad")
    folder = root / "in" / "deep"
    folder.mkdir(parents=True)
    for name, (data, _) in FILES.items():
        (folder / name).write_bytes(data)
    (folder / "up").symlink_to(root / "in", target_is_directory=True)
    (folder / "itself.txt").symlink_to(folder / "itself.txt")
    (folder / "unreadable.txt").write_text(essay(14))
    (folder / "unreadable.txt").chmod(0)
    if os.access(folder / "unreadable.txt", os.R_OK):  # as root may everything, but not this
        (folder / "unreadable.txt").unlink()
        (folder / "unreadable.txt").symlink_to("/proc/self/mem")
    before = set(root.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "AT_LEAST", 10**9)  # one partition needs no worker, which takes seconds to start
        corpus = build_corpus(CorpusConfig((root / "in",), root / "out", limits=LIMITS, validation=0.2))
    assert {path for path in root.rglob("*") if (root / "out") not in (path, *path.parents)} == before
    return corpus


EXPECTED = {name: reasons for name, (_, reasons) in FILES.items()} | {"unreadable.txt": [UNOPENED]}


def test_nothing_stops_it_and_all_counts_add_up(corpus: Artifact) -> None:
    check_counts(corpus)
    said = [reason for reasons in EXPECTED.values() for reason in reasons]
    assert corpus.summary["documents"]["kept"] == said.count(KEPT)
    assert corpus.summary["documents"]["rejected"] == len(said) - said.count(KEPT)
    assert corpus.summary["files"]["passed_over_suffixes"] == {"links that lead nowhere, pipes and devices": 1}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_record_is_kept_or_told_why_not(corpus: Artifact, name: str) -> None:
    rows = pyarrow.parquet.read_table(corpus.path / "rejected").to_pylist()
    found = [category(row["reason"]) for row in rows if row["source"].partition("!")[0] == f"in/deep/{name}"]
    found = [STOPPED] * len(found) if STOPPED in EXPECTED[name] else found  # however it ended
    found += [KEPT for d in everything(corpus) if d.source.partition("!")[0] == f"in/deep/{name}"]
    assert sorted(found) == sorted(EXPECTED[name])


FULL = """import resource, sys; from fromzero.commands import main; from fromzero.corpus import partitions
partitions.AT_LEAST = 10**9
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(["corpus", "build", "--inputs", "[in]", "--output", "out"]))"""


@pytest.mark.parametrize("what", ["output", "temporary files"])
def test_a_full_disk_ends_it_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    folder, count = tmp_path / "in", 400 if what == "output" else 2
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.txt").write_text(essay(number) * 2, encoding="utf-8")
    if what == "temporary files":  # a member this large is not held in memory
        (folder / "a.tar").write_bytes(tarred({"large.jsonl": lines({"text": essay(count)}) + ZEROS * 3}))
    ended = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert "make room" in ended.stderr
    assert "Traceback" not in ended.stderr
    monkeypatch.setattr(partitions, "AT_LEAST", 10**9)
    again = build_corpus(CorpusConfig((folder,), tmp_path / "out")).summary["documents"]
    assert (again["kept"], again["rejected"]) == (count + (what != "output"), 0)
