"""The page about a corpus, from files to HTML: its numbers are the corpus's, its examples the nearest ones."""

import json
import re
import webbrowser
from pathlib import Path

import pytest
from test_report import Page

from fromzero.artifact import Artifact, build
from fromzero.commands import main
from fromzero.corpus import CorpusConfig, build_corpus
from fromzero.corpus.document import Document
from fromzero.corpus.filters import judge
from fromzero.corpus.near_duplicates import MinHash
from fromzero.corpus.rules import RULES
from fromzero.corpus.settings import Filters
from fromzero.corpus.storing import DocumentWriter, ShardWriter
from fromzero.errors import UserError
from fromzero.explain import corpus_sample
from fromzero.explain.about_corpus import compose_corpus, excerpt, visible
from fromzero.explain.blocks import Charts, Details, Report, Samples, Table
from fromzero.explain.charts import Histogram
from fromzero.explain.corpus_look import Look, look_into
from fromzero.explain.corpus_report import ShowConfig, show_corpus
from fromzero.explain.corpus_sample import draw_sample, fetch, read_columns
from fromzero.explain.words import Words

HOSTILE = (
    "<script>alert(1)</script> & \u202egnp.exe \ufeff\x1b[31m {{ x }} and words enough that the text is not too short"
)
NEAR = MinHash(least_similarity=0.8)
FILTERS = Filters(max_repeated_lines=None, languages={"zh": {"min_length": 150}})
WORDS = "The river rises in the hills above a town and runs for ninety miles before it meets the sea at low water. "


def english(length: int) -> str:
    words = WORDS.split()
    first = length * 7 % len(words)
    return " ".join((words[first:] + words[:first]) * (1 + length // 90))[:length].strip().ljust(length, "x")


def chinese(length: int, step: int) -> str:
    """So long as the rules count: an ideograph is three."""
    return ("河发源于城外群山蜿蜒九十里后汇入大海铁路修通以前船只沿河运送羊毛和木材后来码头上只剩渔民" * 2)[::step][
        : length // 3
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """English on either side of a limit of 50, Chinese of one of 150, what is hostile, damaged, and there twice."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [english(n) for n in (20, 30, 45, 49, 49, 50, 52, 60)] + [english(900)[:400], english(900)]
    texts += [chinese(n, step) for n, step in ((90, 1), (144, 1), (150, 1), (165, -1))]
    texts += [HOSTILE, HOSTILE[:45], "1234567890 " * 30]
    (folder / "in").mkdir()
    for number, text in enumerate(texts):
        (folder / "in" / f"{number:02d}.txt").write_bytes(text.encode())
    (folder / "in" / "<b>\u202ename.txt").write_text(english(900), "utf-8")
    (folder / "in" / "bad.pdf").write_bytes(b"%PDF-1.4 nothing")
    return build_corpus(
        CorpusConfig(
            (folder / "in",), folder / "corpus", workers=1, filters=FILTERS, normalize=False, near_duplicates=NEAR
        )
    )


@pytest.fixture(scope="module")
def look(corpus: Artifact) -> Look:
    return look_into(corpus.path, corpus.summary, FILTERS)


def page_of(corpus: Artifact, look: Look, language: str = "en") -> Report:
    return compose_corpus(corpus, look, FILTERS, Words(language))  # type: ignore[arg-type]


def blocks_of(report: Report, section: str) -> tuple[object, ...]:
    return next(s.blocks for s in report.sections if s.name == section)


def number(cell: str) -> int:
    return int(re.sub(r"\D", "", cell))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_numbers_are_those_of_the_corpus(corpus: Artifact, look: Look, language: str) -> None:
    counts = json.loads((corpus.path / "counts.json").read_text("utf-8"))
    report = page_of(corpus, look, language)
    (table,) = (b for b in blocks_of(report, "rules") if isinstance(b, Table))
    ruled = {name: number(dropped) for name, _, _, dropped, *_ in table.rows}
    funnel = {row["reason"]: row["documents"] for row in counts["funnel"]}
    for reason in {RULES[name].reason for name in ruled}:
        assert sum(n for name, n in ruled.items() if RULES[name].reason == reason) == funnel.get(reason, 0)
    assert {k: v.documents for k, v in look.taken.items() if k not in RULES and v.documents} == {
        "damaged file": 1,
        "duplicate": 1,
        "near duplicate": 1,
    }
    assert sum(taken.documents for taken in look.taken.values()) == counts["documents"]["rejected"]
    assert (len(look.kept), len(look.rejected)) == (counts["documents"]["kept"], counts["documents"]["rejected"])
    (funnels,) = (b for b in blocks_of(report, "dropped") if isinstance(b, Charts))
    assert [chart.bars[-1].value for chart in funnels.charts] == [
        counts[unit]["kept"] for unit in ("documents", "bytes")
    ]  # type: ignore[union-attr]


def test_examples_are_the_nearest_on_either_side(corpus: Artifact, look: Look) -> None:
    short = look.taken["min_length"]
    assert short.documents == 8  # six in English, of which one is there twice, and two in Chinese
    sources = [(one.detail, one.source) for one in short.outside]
    assert sources == [("49", "in/03.txt"), ("144", "in/11.txt"), ("45", "in/02.txt")]
    found = [one.detail for one in short.inside]
    assert (sorted(found[:2]), found[2]) == (["150", "50"], "52")
    for taken in look.taken.values():
        assert all(judge(one.text or "", FILTERS, None) is None for one in taken.inside)
    (table,) = (b for b in blocks_of(page_of(corpus, look), "rules") if isinstance(b, Table))
    assert table.rows[0][2] == "≥\u00a050, zh:\u00a0≥\u00a0150"


def test_a_page_of_strangers_texts_and_names(corpus: Artifact, tmp_path: Path) -> None:
    html = (show_corpus(ShowConfig(corpus.path, tmp_path / "page")).path / "corpus.html").read_text("utf-8")
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe", "b"}
    assert all(link.startswith("#") for link in page.links)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]", html)
    assert "<script>alert(1)</script> & ⟨U+202E⟩gnp.exe ⟨U+FEFF⟩⟨U+001B⟩[31m {{ x }}" in page.text
    assert "in/<b>⟨U+202E⟩name.txt" in page.text
    assert "personal data" in page.text


def test_charts_show_the_sides_and_the_limits(corpus: Artifact, look: Look) -> None:
    charts = [chart for b in blocks_of(page_of(corpus, look), "spread") for chart in _charts(b)]
    length = next(chart for chart in charts if chart.title == "length")
    assert isinstance(length, Histogram)
    assert length.logarithmic
    assert [round(10**at) for _, at in length.marks] == [50, 150]
    assert [name for name, _ in length.series] == ["kept", "dropped"]
    assert all(sum(shares) == pytest.approx(1) for _, shares in length.series)
    kept, dropped = (shares for _, shares in length.series)
    below = next(i for i, edge in enumerate(length.edges) if edge > length.marks[0][1]) - 1
    assert not any(kept[:below])
    assert any(dropped[:below])


def _charts(block: object) -> list[object]:
    if isinstance(block, Details):
        return [chart for inner in block.blocks for chart in _charts(inner)]
    return list(block.charts) if isinstance(block, Charts) else []


def test_pairs_of_near_duplicates(corpus: Artifact, look: Look) -> None:
    ((kept, dropped),) = look.pairs
    assert (kept.source, dropped.source) == ("in/09.txt", "in/08.txt")
    (samples,) = (block for block in blocks_of(page_of(corpus, look), "pairs") if isinstance(block, Samples))
    assert [label for label, _ in samples.texts] == ["kept · in/09.txt", "dropped · in/08.txt"]
    longer, shorter = (text for _, text in samples.texts)
    assert shorter == "… " + english(900)[340:400].strip()
    assert longer.startswith(shorter)
    assert longer.endswith(" …")


def test_excerpts() -> None:
    assert excerpt("a" * 400) == "a" * 300 + " …"
    assert excerpt("a\n" * 20) == "\n".join("a" * 8) + " …"
    assert excerpt("  one  ") == "one"
    assert excerpt("0123456789", 4) == "… 456789"
    assert excerpt(None) == excerpt(" \n") == "–"
    assert visible("a\tb\n\u3000汉\u200d\u2066") == "a\tb\n\u3000汉\u200d⟨U+2066⟩"


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """200 rows in 20 row groups of two shards."""
    monkeypatch.setattr("fromzero.corpus.storing.GROUP_ROWS", 10)
    for name in ("a", "b"):
        with ShardWriter(tmp_path, name, dict.fromkeys(("id", "source", "reason", "text"), "string")) as writer:
            for n in range(100):
                writer.write({"id": f"{name}{n}", "source": f"{n}", "reason": "r", "text": "x" * 100}, 1)
    return sorted(tmp_path.glob("*.parquet"))


def test_a_sample_is_small_and_always_the_same(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    names = [row["id"] for row in draw_sample(shards)]
    assert len(names) == len(set(names)) == 200
    assert names != sorted(names)
    monkeypatch.setattr(corpus_sample, "DOCUMENTS", 50)
    assert [row["id"] for row in draw_sample(shards)] == names[:50]
    monkeypatch.setattr(corpus_sample, "TEXT", 750)
    assert [row["id"] for row in draw_sample(shards)] == names[:7]
    monkeypatch.setattr(corpus_sample, "TEXT", 7)
    assert [row["id"] for row in draw_sample(shards)] == names[:1]
    monkeypatch.setattr(corpus_sample, "GROUPS", 3)
    monkeypatch.setattr(corpus_sample, "TEXT", 10**6)
    few = [row["id"] for row in draw_sample(shards)]
    assert few == [name for name in names if name in few]
    assert len(few) == 30
    assert draw_sample([]) == []


def test_rows_are_fetched_from_where_they_are(shards: list[Path]) -> None:
    places = {row["id"]: place for place, row in read_columns(shards, ("id",))}
    assert len(places) == 200
    wanted = [places[name] for name in ("b7", "a99", "b3", "b7")]
    assert [fetch(wanted)[place]["id"] for place in wanted] == ["b7", "a99", "b3", "b7"]


def test_a_damaged_shard_is_named(shards: list[Path]) -> None:
    whole = shards[1].read_bytes()
    others = (whole.replace(b"source", b"sauces"), bytes(len(whole) - 2000) + whole[-2000:])
    for data in (whole[:-50], b"PAR1" + bytes(100) + b"PAR1", b"", *others):
        shards[1].write_bytes(data)
        with pytest.raises(UserError, match=r"b-00000\.parquet is damaged"):
            draw_sample(shards)


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a corpus of which nothing was dropped, with the page where it belongs."""

    def make(folder: Path) -> dict[str, object]:
        for side in ("train", "validation"):
            with DocumentWriter(folder, side) as writer:
                writer.write(Document("a", WORDS * 3, "a.txt", "", "en", {}))
        sides = dict.fromkeys(("read", "kept", "train", "validation"), 1) | {"rejected": 0}
        files = {"read": 1, "unreadable": 0, "passed_over": 0, "passed_over_suffixes": {}, "bytes": 9}
        languages = {"en": {"documents": 1, "bytes": 9}}
        return {"documents": sides, "bytes": sides, "files": files, "funnel": [], "languages": languages, "kinds": {}}

    made = build(tmp_path / "c", "corpus", {"filters": {"profile": "web"}}, {}, make)
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    page = tmp_path / "c-report" / "corpus.html"
    for more in ([], ["--open"]):
        assert main(["corpus", "show", str(made.path), *more]) == 0
        assert capsys.readouterr().out.strip() == str(page)
    assert opened == [page.as_uri()]
    written = page.stat().st_mtime_ns
    assert main(["corpus", "show", str(made.path), "--language", "zh", "--open", "false"]) == 0
    assert page.stat().st_mtime_ns != written
    assert len(opened) == 1
    monkeypatch.chdir(made.path)
    assert main(["corpus", "show", ".", "--language", "zh"]) == 0
    assert Path(capsys.readouterr().out.strip().split("\n")[-1]) == page
    assert "<h1>c：保留了什么" in page.read_text("utf-8")
    for wrong, message in (([str(tmp_path)], "not a corpus"), ([str(page.parent)], "is a report, not a corpus")):
        assert main(["corpus", "show", *wrong]) == 2
        assert message in capsys.readouterr().err
