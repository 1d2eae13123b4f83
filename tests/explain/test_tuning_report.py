"""What a report says of tuned models: figures with intervals, curves, confusion, calibration, examples, forgetting."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import make_run

from fromzero.explain import ReportConfig, write_report
from fromzero.explain.about_tuning import tuning_sections
from fromzero.explain.blocks import Charts, Details, Samples, Section, Table, Text
from fromzero.explain.charts import LineChart, Matrix, draw
from fromzero.explain.gather import Run, read_run
from fromzero.explain.words import Words
from fromzero.tuning.outcome import Change, Outcome, write_outcome


def sections(run: Run) -> dict[str, Section]:
    return {section.name: section for section in tuning_sections(run, Words("en"))}


def plain(table: Table) -> list[list[str]]:
    return [[cell.replace("\u00a0", " ") for cell in row] for row in table.rows]


def charts(section: Section) -> list[object]:
    return [chart for block in section.blocks if isinstance(block, Charts) for chart in block.charts]


def test_changes_have_intervals_and_a_verdict_that_knows_chance(run: Run) -> None:
    found = sections(run)
    table = next(b for b in found["tuned-chat"].blocks if isinstance(b, Table) and b.header[0] == "figure")
    assert plain(table) == [
        ["right answers", "3.3 % [0.6–16.7]", "50.0 % [33.2–66.8]", "better", "30"],
        ["right answers: module", "0.0 % [0.0–19.4]", "56.2 % [33.2–76.9]", "better", "16"],
        ["held-out loss", "2.810", "0.930", "better", "–"],
    ]
    table = next(b for b in found["tuned-classes"].blocks if isinstance(b, Table) and b.header[0] == "figure")
    assert [row[3] for row in table.rows] == ["better", "better", "worse"]
    assert plain(table)[2][:3] == ["forgetting: bits per byte of earlier text", "1.200", "1.260"]


@pytest.mark.parametrize(("after", "verdict"), [(0.55, "unclear"), (0.5, "the same"), (0.9, "better"), (0.1, "worse")])
def test_a_change_within_the_intervals_is_unclear(run: Run, after: float, verdict: str) -> None:
    change = {"name": "x", "before": 0.5, "after": after, "better": "higher", "count": 40, "share": True}
    training = replace(run.tuned[0], outcome={"task": "grpo", "changes": [change]})
    (section,) = tuning_sections(replace(run, tuned=(training,)), Words("en"))
    assert section.title == "chat: reinforcement (GRPO)"
    table = next(b for b in section.blocks if isinstance(b, Table) and b.header[0] == "figure")
    assert table.rows[0][3] == verdict


def test_curves_of_one_name_share_a_chart(run: Run) -> None:
    drawn = [c for c in charts(sections(run)["tuned-classes"]) if isinstance(c, LineChart)]
    assert [c.title for c in drawn][:3] == ["Loss", "accuracy", "forgetting: bits per byte of earlier text"]
    assert [line.name for line in drawn[1].lines] == ["batch it learns from", "held out"]
    assert drawn[1].lines[1].points[-1] == (60, 0.5 + 60 / 140)


def test_confusion_and_calibration(run: Run) -> None:
    section = sections(run)["tuned-classes"]
    (matrix,) = (c for c in charts(section) if isinstance(c, Matrix))
    drawn = ET.fromstring(draw(matrix))
    shares = [float(r.get("fill-opacity", 0)) for r in drawn.iter("rect") if r.get("class") == "cell"]
    assert shares == pytest.approx([960 / 964, 4 / 964, 0, 7 / 150, 140 / 150, 3 / 150, 1 / 13, 0, 12 / 13], abs=1e-3)
    assert {"960", "140", "12"} <= {t.text for t in drawn.iter("text")}
    assert any((t.text or "").endswith("…") for t in drawn.iter("text"))
    worst = next(b for b in section.blocks if isinstance(b, Details) and b.summary == "The most frequent confusions")
    assert isinstance(worst.blocks[0], Table)
    assert worst.blocks[0].rows[0][:3] == ("spam", "ham", "7")
    error = sum(9 * i * abs((i + 0.5) / 12 - (i + 0.5) / 10) for i in range(10)) / sum(9 * i for i in range(10))
    assert any(f"{100 * error:.1f}\u00a0%" in b.text for b in section.blocks if isinstance(b, Text))


def test_every_example_is_there_and_few_are_in_full_view(run: Run) -> None:
    blocks = sections(run)["tuned-chat"].blocks
    shown = [b for b in blocks if isinstance(b, Samples)]
    details = next(b for b in blocks if isinstance(b, Details) and "examples" in b.summary)
    assert [label for label, _ in shown[0].texts] == ["expected", "before ✗", "after ✓"]
    assert len(shown) == 6
    assert details.summary == "4 more examples"
    prompts = [b.prompt for b in (*shown, *details.blocks) if isinstance(b, Samples)]
    assert sorted(prompts) == sorted(example["prompt"] for example in run.tuned[0].outcome["examples"])


def test_examples_come_from_the_samples_where_none_are_named(run: Run) -> None:
    (section,) = tuning_sections(replace(run, tuned=(replace(run.tuned[0], outcome={}),)), Words("zh"))
    (example,) = (b for b in section.blocks if isinstance(b, Samples))
    assert [text for _, text in example.texts] == ["of the of", "It is in email.utils."]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome("chat", [Change("loss", float("inf"), 1.0)], more={"a": [float("nan"), 2.0]}))
    told = json.loads((tmp_path / "outcome.json").read_text())
    assert (told["changes"][0]["before"], told["changes"][0]["after"], told["more"]) == (None, 1.0, {"a": [None, 2.0]})


def test_one_stage_has_a_report_beside_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ("classes",)) / "classes"
    made = write_report(ReportConfig(folder, language="zh"))
    assert made.path == tmp_path / "classes-report"
    text = (made.path / "report.md").read_text(encoding="utf-8")
    assert re.search("classes.*微调改变了什么", text)
    assert "960    4    0  ham" in text
    assert 'classes --classify "TEXT"' in text
    assert [stage.path.name for stage in read_run(folder).stages] == ["classes"]
