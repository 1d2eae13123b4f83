import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import ALL, FUNNEL, HOSTILE, make_run

from fromzero.artifact import build
from fromzero.commands.report import VERB
from fromzero.config import from_arguments
from fromzero.device import Machine
from fromzero.errors import UserError
from fromzero.explain import ReportConfig, write_report
from fromzero.explain.about_run import compose
from fromzero.explain.blocks import Charts, Report, Table
from fromzero.explain.charts import LineChart
from fromzero.explain.gather import Run, read_run
from fromzero.explain.markdown import escape, fenced, to_markdown
from fromzero.explain.page import to_html
from fromzero.explain.words import Words

MACHINE = Machine("Linux 6", "3.11", "2.11", "cpu (x86)", 2, 8_000_000_000, 1e11, 2e11, "float32")
TUNED = ("tuned-chat", "tuned-classes")
SECTIONS = ("input", "dropped", "tokenizer", "base", "scores", "samples", *TUNED, "speed", "use", "repeat")
VOID = {"meta", "br", "hr", "wbr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; a tag that is not closed is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def report_on(run: Run, language: str = "en") -> Report:
    return compose(run, Words(language), MACHINE)  # type: ignore[arg-type]


def table_of(report: Report, section: str, number: int = 0) -> Table:
    blocks = next(s for s in report.sections if s.name == section).blocks
    return [b for b in blocks if isinstance(b, Table)][number]


def number(cell: str) -> int:
    return int(re.sub(r"[^\d]", "", cell))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_whole_run_has_every_section_in_order(run, language):
    assert tuple(section.name for section in report_on(run, language).sections) == SECTIONS


@pytest.mark.parametrize(
    ("stages", "sections"),
    [
        (("documents",), {"input", "repeat"}),
        (("corpus",), {"input", "dropped", "repeat"}),
        (("tokenizer",), {"tokenizer", "repeat"}),
        (("questions",), {"repeat"}),
        (("tokens",), {"repeat"}),
        (("scores",), {"scores", "repeat"}),
        (("base",), {"base", "samples", "speed", "use", "repeat"}),
        (("chat",), {"tuned-chat", "speed", "use", "repeat"}),
        (("classes",), {"tuned-classes", "speed", "use", "repeat"}),
        (tuple(s for s in ALL if s not in ("chat", "questions")), set(SECTIONS) - {"tuned-chat"}),
    ],
)
def test_a_missing_stage_has_no_section(tmp_path, stages, sections):
    report = report_on(read_run(make_run(tmp_path / "part", stages)))
    assert {section.name for section in report.sections} == sections
    Page(to_html(report))
    assert to_markdown(report)


def test_only_a_chat_model_is_offered_for_chat(run, tmp_path):
    assert f"fromzero chat {run.path.as_posix()}/chat" in to_html(report_on(run))
    base = report_on(read_run(make_run(tmp_path / "base_only", ("base",))))
    assert "fromzero chat" not in to_html(base)
    practised = tuple(replace(training, outcome={"task": "grpo"}) for training in run.tuned)
    assert "fromzero chat" not in to_html(report_on(replace(run, tuned=practised)))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_closed_escaped_and_needs_nothing_else(run, language):
    page = Page(to_html(report_on(run, language)))
    assert not page.tags & {"script", "link", "img", "iframe", "b", "object"}
    assert all(link.startswith("#") for link in page.links)
    assert HOSTILE.replace("\x07", "\ufffd") in page.text
    assert "<b>Raises</b> ValueError" in page.text
    assert "<b>mpmath</b>" in page.text


def test_every_drawing_is_well_formed(run):
    drawings = re.findall(r"<svg.*?</svg>", to_html(report_on(run)), flags=re.DOTALL)
    assert len(drawings) == 16
    for drawing in drawings:
        assert ET.fromstring(drawing).get("aria-label")


def test_the_funnel_adds_up(run):
    rows = table_of(report_on(run), "dropped").rows
    names = [row[0] for row in rows]
    assert names == ["read", *(reason for reason, _, _ in FUNNEL), "kept", "to learn from", "held out"]
    for column in (1, 3):
        read, *dropped, kept, train, validation = (number(row[column]) for row in rows)
        assert read - sum(dropped) == kept == train + validation
    assert [number(row[1]) for row in rows[1:5]] == [n for _, n, _ in FUNNEL]
    assert rows[2][-1] == "filters.min_length: 50"


def test_sources_add_up(run):
    *sources, total = table_of(report_on(run), "input").rows
    assert number(total[3]) == sum(number(row[3]) for row in sources)
    assert sources[2][1:3] == ("not installed", "–")


def test_scores_are_those_of_the_evaluation(run):
    report = report_on(run)
    assert table_of(report, "scores").rows[0][1] == "1.560\u00a0±\u00a00.021"
    lead = to_markdown(report).split("## ")[0]
    assert "needs 1.560 ± 0.021 bits" in lead
    assert "The best baseline, xz, needs 1.971" in lead
    assert "**20.8 %** fewer bits than xz" in lead
    assert "chat: right answers went from 3.3 % to 50.0 %" in lead
    assert "**98.5 %** classes: accuracy (before tuning: 50.0 %)" in lead


def test_a_model_worse_than_a_baseline_is_said_to_be(tmp_path):
    bad = {"bits_per_byte": 3.0, "bits_per_byte_stderr": None, "perplexity": 9.0, "perplexity_stderr": 1.0}
    bad |= {"documents": 1, "tokens": 5, "bytes": 9, "nats_per_character": 1.0}
    scores = {"model": bad, "baselines": {"gzip": 2.0}}
    build(tmp_path / "scores", "evaluation", {"model": "m"}, {}, lambda folder: scores)
    text = to_markdown(report_on(read_run(tmp_path)))
    assert "**50.0 %** more bits than gzip" in text
    assert "needs 3.000 bits" in text


def test_a_tokenizer_that_changes_text_has_no_bits_per_byte(tmp_path):
    none = {"bits_per_byte": None, "bits_per_byte_stderr": None, "nats_per_character": None}
    model = none | {"perplexity": 9.0, "perplexity_stderr": 1.0, "documents": 7, "tokens": 5, "bytes": 9}
    scores = {"model": model | {"spelled": 3, "changed": 6}, "baselines": {"gzip": 2.0}}
    build(tmp_path / "scores", "evaluation", {"model": "m"}, {}, lambda folder: scores)
    text = to_markdown(report_on(read_run(tmp_path)))
    assert "changes 6 of the 7 held-out documents" in text
    assert "bits than gzip" not in text
    assert "| unknown text, charged at 8 bits a byte | 33.3 % |" in text.replace("\u00a0", " ")


def test_curves_hold_what_was_measured(run):
    charts = next(b for b in report_on(run).sections[3].blocks if isinstance(b, Charts)).charts
    loss, bits, rate, norm = (chart for chart in charts if isinstance(chart, LineChart))
    assert loss.lines[0].points == tuple((line["step"], line["loss"]) for line in run.base.steps)
    assert loss.lines[1].points[-1] == (250, run.base.looks[-1]["validation_loss"])
    assert bits.lines[0].points[-1][0] == 250 * 4096
    assert bits.references == (("xz", 1.9712),)
    assert len(rate.lines[0].points) == len(norm.lines[0].points) == len(run.base.steps)


def test_scores_of_another_model_are_left_out(tmp_path):
    make_run(tmp_path, ("base",))
    build(tmp_path / "scores", "evaluation", {"model": "other"}, {"model": "another digest"}, lambda folder: {})
    assert read_run(tmp_path).scores is None


def test_what_is_set_aside_or_unfinished_is_not_reported(tmp_path):
    make_run(tmp_path, ("base", "corpus"))
    (tmp_path / "base").rename(tmp_path / "base.previous")
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "unfinished.json").write_text("{}")
    assert [stage.path.name for stage in read_run(tmp_path).stages] == ["corpus"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_markdown_tables_are_whole_and_fences_are_closed(run, language):
    text = to_markdown(report_on(run, language))
    outside = re.sub(r"^(`{3,})\w*\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "`" not in re.sub(r"\\`", "", outside)
    assert "<script" not in outside.replace("\\<", "")
    tables = re.findall(r"(?:^\|.*\|\n)+", outside, flags=re.MULTILINE)
    assert len(tables) >= 12
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1
        assert re.fullmatch(r"\|( -{3}:? \|)+", table.splitlines()[1])


def test_markdown_helpers():
    assert escape("a|b\n*c* <d>") == r"a\|b \*c\* \<d\>"
    assert fenced("x ```` y").startswith("`````text\n")


def test_write_report_writes_both_and_is_then_up_to_date(run_folder, tmp_path):
    config = ReportConfig(run_folder, tmp_path / "report", title="Mine & yours", language="zh")
    first = write_report(config)
    assert first.kind == "report"
    assert set(first.manifest["inputs"]) == set(ALL)
    assert set(first.manifest["files"]) == {"report.html", "report.md"}
    html = (first.path / "report.html").read_text(encoding="utf-8")
    assert '<html lang="zh">' in html
    assert "<h1>Mine &amp; yours</h1>" in html
    assert write_report(config).manifest["finished"] == first.manifest["finished"]


def test_the_report_stands_in_the_run_and_does_not_report_on_itself(tmp_path, capsys):
    run = make_run(tmp_path / "run", ("corpus",))
    VERB.run(from_arguments(VERB.settings, ["--run", str(run)], "fromzero report", ""))
    assert Path(capsys.readouterr().out.strip()) == run / "report" / "report.html"
    again = write_report(ReportConfig(run))
    assert set(again.manifest["inputs"]) == {"corpus"}


def test_a_folder_without_a_finished_stage_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        write_report(ReportConfig(tmp_path / "nowhere"))
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match="holds no finished stage"):
        write_report(ReportConfig(tmp_path))
    assert not (tmp_path / "report").exists()


def test_a_damaged_stage_is_reported_not_used(tmp_path):
    make_run(tmp_path, ("corpus",))
    (tmp_path / "corpus" / "counts.json").write_text("{}")
    with pytest.raises(UserError, match=r"counts\.json does not match"):
        write_report(ReportConfig(tmp_path))
