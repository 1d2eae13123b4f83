"""The whole stage on real folders: what comes out, that the counts add up, and what a user is told."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from fromzero.artifact import MANIFEST, Artifact, open_artifact
from fromzero.corpus import CorpusConfig, Document, build_corpus, pipeline, read_corpus
from fromzero.corpus.settings import Filters, Limits
from fromzero.errors import UserError

Settings = Callable[..., CorpusConfig]
Essays = Callable[[int], list[str]]
Novel = Callable[[int], str]


def fill(folder: Path, texts: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    return folder


def everything(corpus: Artifact) -> list[Document]:
    return [document for side in ("train", "validation") for document in read_corpus(corpus.path, side)]  # type: ignore[arg-type]


def rejected(corpus: Artifact) -> dict[str, str]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(corpus.path / "rejected").to_pylist()
    return {row["source"]: row["reason"] for row in rows}


def check_counts(corpus: Artifact) -> None:
    counts = corpus.summary
    assert counts == json.loads((corpus.path / "counts.json").read_text())
    funnel = counts["funnel"]
    for unit in ("documents", "bytes"):
        number = counts[unit]
        assert number["read"] == number["kept"] + number["rejected"]
        assert number["rejected"] == sum(row[unit] for row in funnel)
        assert number["kept"] == sum(row[unit] for row in counts["languages"].values())
        assert number["kept"] == sum(row[unit] for row in counts["kinds"].values())
    assert counts["bytes"]["kept"] == counts["bytes"]["train"] + counts["bytes"]["validation"]
    sides = counts["documents"]["train"] + counts["documents"]["validation"]
    assert counts["documents"]["kept"] == sides - counts["documents"]["halved"]
    assert counts["files"]["read"] + counts["files"]["unreadable"] == sum(k["files"] for k in counts["kinds"].values())
    found = everything(corpus)
    assert len(found) == sides
    assert sum(len(d.text.encode()) for d in found) == counts["bytes"]["kept"]
    assert sum(len(d.text) for d in found) == sum(counts["characters"].values())


@pytest.fixture
def mixed(
    tmp_path: Path, english: str, essays: Essays, chinese: str, pdf: bytes, page: Callable[[str, str], str]
) -> Path:
    """A nested folder in Chinese and English, in many formats and encodings, with what goes wrong among it."""
    folder = tmp_path / "in"
    fill(folder, essays(12))
    (folder / "中文" / "网页").mkdir(parents=True)
    for number in range(4):
        body = f"第{number}篇。" + chinese * 4
        (folder / "中文" / "网页" / f"{number}.html").write_bytes(page("gb2312", body).encode("gb18030"))
    (folder / "中文" / "诗.txt").write_bytes("床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n".encode("utf-16"))
    (folder / "report.PDF").write_bytes(pdf)
    (folder / "lines.jsonl").write_text(
        "".join(json.dumps({"text": f"Record {n}. {english}"}) + "\n" for n in range(5)) + "{broken\n"
    )
    rows = [f"第{n}行。{chinese}" for n in range(5)]
    pyarrow.parquet.write_table(pyarrow.table({"content": rows}), folder / "rows.parquet")
    (folder / "copy.md").write_text("---\ntitle: Copy\n---\n" + essays(1)[0])
    (folder / "short.txt").write_text("Too short.")
    (folder / "corrupt.pdf").write_bytes(b"%PDF-1.4\n" + b"\xff" * 500)
    (folder / "photo.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 500)
    (folder / "empty.html").write_text("")
    (folder / "image.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.txt").write_text(english * 2 + "hidden")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    return folder


def test_a_mixed_folder(mixed: Path, settings: Settings) -> None:
    corpus = build_corpus(settings())
    check_counts(corpus)
    counts = corpus.summary
    assert counts["documents"]["kept"] == 12 + 4 + 1 + 1 + 5 + 5
    reasons = rejected(corpus)
    assert reasons.pop("in/lines.jsonl").startswith("record could not be read: line 6 is not valid JSON (")
    assert reasons.pop("in/corrupt.pdf").startswith("damaged file: ")
    assert reasons == {
        "in/copy.md": "duplicate",
        "in/short.txt": "too short: min_length 50, found 10",
        "in/photo.txt": "binary file, not text: it starts like an image, an archive, a program or a PDF",
        "in/empty.html": "no text",
    }
    assert counts["files"]["passed_over_suffixes"] == {".png": 1}
    assert counts["files"]["unreadable"] == 2
    assert set(counts["languages"]) == {"en", "zh"}
    by_source = {document.source: document for document in everything(corpus)}
    assert "床前明月光" in by_source["in/中文/诗.txt"].text
    assert by_source["in/中文/网页/0.html"].meta["title"] == "标题 Title"
    assert "lighthouse" in by_source["in/report.PDF"].text
    assert not any("hidden" in document.text for document in by_source.values())


def test_neither_workers_nor_place_change_a_byte(mixed: Path, settings: Settings, tmp_path: Path) -> None:
    one = build_corpus(settings(workers=1))
    three = build_corpus(settings(workers=3, output=tmp_path / "other"))
    assert one.digest == three.digest
    assert one.manifest["key"] == three.manifest["key"]
    assert sorted(p.name for p in one.path.iterdir()) == [
        "counts.json",
        "manifest.json",
        "rejected",
        "train-00000.parquet",
        "validation-00000.parquet",
    ]


def test_up_to_date_and_rebuilt(settings: Settings, tmp_path: Path, english: str, essays: Essays, capsys: Any) -> None:
    fill(tmp_path / "in", essays(10))
    first = build_corpus(settings())
    finished = (first.path / MANIFEST).stat().st_mtime_ns
    assert build_corpus(settings(workers=2)).digest == first.digest
    assert (first.path / MANIFEST).stat().st_mtime_ns == finished
    assert "up to date" in capsys.readouterr().err
    assert build_corpus(settings(seed=1)).manifest["key"] != first.manifest["key"]
    (tmp_path / "in" / "003.txt").write_text(english + "changed")
    assert any("changed" in document.text for document in everything(build_corpus(settings(seed=1))))


def test_wrong_decoding_is_repaired_when_asked(settings: Settings, tmp_path: Path, essays: Essays) -> None:
    fill(
        tmp_path / "in",
        [*essays(2), "The cafÃ© is open, â€œfreeâ€\x9d of charge, and closes when the last guest has left."],
    )
    (plain,) = (d.text for d in everything(build_corpus(settings())) if d.language == "en")
    (repaired,) = (d.text for d in everything(build_corpus(settings(repair=True))) if d.language == "en")
    assert "cafÃ©" in plain
    assert repaired.startswith("The café is open, “free” of charge,")


def test_duplicates_keep_the_first(settings: Settings, tmp_path: Path, essays: Essays) -> None:
    folder = fill(tmp_path / "in", essays(5))
    (folder / "900.txt").write_bytes(("\ufeff" + essays(5)[2].replace(" ", "  ", 0) + "\r\n\r\n").encode("utf-16"))
    corpus = build_corpus(settings())
    assert rejected(corpus) == {"in/900.txt": "duplicate"}
    check_counts(corpus)


def test_random_split_goes_by_content(settings: Settings, tmp_path: Path, essays: Essays) -> None:
    texts = essays(60)
    fill(tmp_path / "in", texts)
    first = build_corpus(settings(validation=0.2))
    held = {document.text for document in read_corpus(first.path, "validation")}
    share = first.summary["bytes"]["validation"] / first.summary["bytes"]["kept"]
    assert 0.17 < share < 0.23
    random.Random(0).shuffle(texts)
    fill(tmp_path / "shuffled", texts)
    again = build_corpus(settings(validation=0.2, inputs=(tmp_path / "shuffled",), output=tmp_path / "out2"))
    assert {document.text for document in read_corpus(again.path, "validation")} == held
    capped = build_corpus(settings(validation=0.2, validation_max_bytes=1000, output=tmp_path / "out3"))
    assert capped.summary["bytes"]["validation"] < 1500


@pytest.mark.parametrize("cut_characters", [None, 1000])
def test_tail_split_is_exact(settings: Settings, tmp_path: Path, novel: Novel, cut_characters: int | None) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    whole = novel(6000).replace("the ", "the   \n\n\n\n")
    (folder / "a.txt").write_text(whole)
    corpus = build_corpus(settings(split="tail", validation=0.1, normalize=False, cut_characters=cut_characters))
    sides = {s: "".join(d.text for d in read_corpus(corpus.path, s)) for s in ("train", "validation")}  # type: ignore[arg-type]
    assert sides["train"] == whole[: int(len(whole) * 0.9)]
    assert sides["validation"] == whole[int(len(whole) * 0.9) :]
    check_counts(corpus)


def test_one_long_file_is_cut_and_has_a_held_out_part(settings: Settings, tmp_path: Path, novel: Novel) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "book.txt").write_text(novel(30_000))
    corpus = build_corpus(settings(cut_characters=5000))
    check_counts(corpus)
    assert corpus.summary["documents"]["cut"] == 1
    assert corpus.summary["documents"]["validation"] >= 1
    found = everything(corpus)
    assert all(len(document.text) <= 5000 and document.text.startswith("Paragraph") for document in found)
    assert sorted(int(document.meta["part"]) for document in found) == list(range(1, len(found) + 1))


def test_one_document_is_held_out_from_its_end_or_refused(
    settings: Settings, tmp_path: Path, novel: Novel, english: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text(novel(1000))
    corpus = build_corpus(settings())
    assert corpus.summary["documents"]["halved"] == 1
    check_counts(corpus)
    (folder / "a.txt").write_text(english)
    with pytest.raises(UserError, match="only one document is left"):
        build_corpus(settings(output=tmp_path / "out2"))


def test_artifacts_and_the_output_below_the_input_are_passed_over(
    settings: Settings, tmp_path: Path, essays: Essays
) -> None:
    folder = fill(tmp_path / "in", essays(6))
    output = folder / "runs" / "corpus"
    first = build_corpus(settings(output=output))
    assert build_corpus(settings(output=output)).digest == first.digest
    other = build_corpus(settings(output=tmp_path / "elsewhere"))
    assert other.digest == first.digest
    assert other.summary["files"]["read"] == 6


def test_an_unfinished_run_is_done_again(settings: Settings, tmp_path: Path, essays: Essays) -> None:
    fill(tmp_path / "in", essays(10))
    finished = build_corpus(settings())
    script = (
        "import os, sys; from pathlib import Path\n"
        "from fromzero.corpus import CorpusConfig, build_corpus, pipeline\n"
        "def die(*_): os.kill(os.getpid(), 9)\n"
        "pipeline.hold_out = die\n"  # after the first pass: the partitions and the rejected documents are on disk
        "build_corpus(CorpusConfig((Path(sys.argv[1]),), Path(sys.argv[2]), workers=2))"
    )
    output = tmp_path / "killed"
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "in", output], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (output / pipeline.WORK).exists()
    assert build_corpus(settings(output=output)).digest == finished.digest
    assert not (output / pipeline.WORK).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_and_run_again(settings: Settings, tmp_path: Path, chinese: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": f"{n} {chinese}"}) + "\n" for n in range(15_000)))
    command = [sys.executable, "-m", "fromzero", "corpus", "build", "--inputs", f"[{folder}]", "--output", "out"]
    command += ["--near_duplicates", "null"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.glob("out/partitions/*")):
        assert process.poll() is None
        time.sleep(0.02)
    started = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does it: to the parent and to its children
    message = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "interrupted" in message
    assert "Traceback" not in message
    assert time.monotonic() - started < 5
    assert build_corpus(settings()).summary["documents"]["kept"] == 15_000
    open_artifact(tmp_path / "out", "corpus")


def test_the_verb(tmp_path: Path, english: str, essays: Essays) -> None:
    fill(tmp_path / "a", essays(4))
    fill(tmp_path / "b", [f"Another {n}. {english}" for n in range(4)])
    command = [sys.executable, "-m", "fromzero", "corpus", "build", "--inputs", "[a, b]", "--output", "out"]
    ended = subprocess.run(
        [*command, "--filters.min_length", "60"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "validation" in ended.stderr
    corpus = open_artifact(tmp_path / "out", "corpus")
    assert corpus.config["filters"]["min_length"] == 60
    assert {document.source.split("/")[0] for document in everything(corpus)} == {"a", "b"}


# Bad input


def test_memory_is_shared_out(settings: Settings) -> None:
    assert settings().within_memory() == settings()
    for given, workers, parse in ((1_250_000_000, 1, 600_000_000), (2_900_000_000, 2, 1_000_000_000)):
        found = settings(workers=2, memory_bytes=given).within_memory()
        assert (found.workers, found.limits.parse_memory_bytes) == (workers, parse)
    assert settings(workers=1, memory_bytes=10**10).within_memory().limits == Limits()
    with pytest.raises(UserError, match="it takes at least 1,250,000,000, or null for any"):
        settings(memory_bytes=10**9)


def test_inputs_that_are_not_there(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        build_corpus(settings(inputs=(tmp_path / "nowhere",)))
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="no files to read there"):
        build_corpus(settings())
    (tmp_path / "in" / "a.xcf").write_bytes(b"PK")
    (tmp_path / "in" / "b.png").write_bytes(b"PNG")
    with pytest.raises(UserError, match=r"2 files there, none in a format that is read \(1 .png, 1 .xcf\)"):
        build_corpus(settings())
    assert not (tmp_path / "out").exists()


def test_nothing_readable(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pdf").write_bytes(b"%PDF-1.4 broken")
    (tmp_path / "in" / "b.txt").write_bytes(b"\x7fELF" + b"\0" * 100)
    (tmp_path / "in" / "c.png").write_bytes(b"PNG")
    expected = r"no document is left from 2 files \(1 more .*: 1 binary file, not text, 1 damaged file; each is listed"
    with pytest.raises(UserError, match=expected):
        build_corpus(settings())


def test_everything_filtered_names_the_setting(settings: Settings, tmp_path: Path) -> None:
    fill(tmp_path / "in", ["Short.", "Also short.", "0123456789 " * 30])
    with pytest.raises(
        UserError, match=r"2 too short \(filters.min_length\), 1 too few letters \(filters.min_letters\)"
    ):
        build_corpus(settings())
    rescued = build_corpus(settings(filters=Filters(min_length=1)))  # the failed run left nothing in the way
    assert rescued.summary["documents"]["kept"] == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inputs": ()}, "inputs is empty"),
        ({"workers": -1}, "workers is -1"),
        ({"validation": 1.0}, "validation is 1.0"),
        ({"cut_characters": 5}, "cut_characters is 5"),
        ({"validation_max_bytes": 0}, "validation_max_bytes is 0"),
    ],
)
def test_settings_that_can_not_be(settings: Settings, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(**values)
    with pytest.raises(UserError, match=r"limits\.parse_seconds is 0"):
        Limits(parse_seconds=0)
    with pytest.raises(UserError, match=r"filters\.min_letters is 2"):
        Filters(min_letters=2)


def long_lines(folder: Path, size: int, novel: Novel) -> None:
    """Three files of about `size` bytes on one line each: garbage, one letter, and text."""
    folder.mkdir()
    block = random.Random(0).randbytes(500_000).hex()
    with (folder / "hex.txt").open("w") as garbage, (folder / "letter.txt").open("w") as letter:
        for _ in range(size // 1_000_000):
            garbage.write(block)
            letter.write("a" * 1_000_000)
    with (folder / "text.txt").open("w") as text:
        chapter = novel(50_000).replace("\n\n", " ")
        for number in range(size // len(chapter) + 1):
            text.write(f"Chapter {number}. {chapter} ")


def check_long_lines(corpus: Artifact) -> None:
    check_counts(corpus)
    assert {document.source for document in everything(corpus)} == {"in/text.txt"}
    assert set(rejected(corpus)) >= {"in/hex.txt", "in/letter.txt"}


def test_a_long_single_line(settings: Settings, tmp_path: Path, novel: Novel) -> None:
    long_lines(tmp_path / "in", 3_000_000, novel)
    check_long_lines(build_corpus(settings()))


def kilobytes_to_build(config: CorpusConfig) -> tuple[int, int]:
    """How much more memory this process takes at most after it has built a corpus, and how much its children take."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    build_corpus(config)
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own - before, children


@pytest.mark.slow
def test_two_hundred_megabytes_on_a_single_line(settings: Settings, tmp_path: Path, novel: Novel) -> None:
    long_lines(tmp_path / "in", 200_000_000, novel)
    # A process of its own: a child begins as large as its parent, and this one has all tests in it.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        own, children = alone.submit(kilobytes_to_build, settings(workers=2)).result()
    assert own < 500_000
    assert children < 500_000
    corpus = open_artifact(tmp_path / "out", "corpus")
    check_long_lines(corpus)
