"""`fromzero report`: the stages of a run -> report.html and report.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact, build
from fromzero.device import probe
from fromzero.explain.about_run import compose
from fromzero.explain.gather import Run, read_run
from fromzero.explain.markdown import to_markdown
from fromzero.explain.page import to_html
from fromzero.explain.words import Language, Words
from fromzero.files import write_text

VERSION = 3


@dataclass(frozen=True)
class ReportConfig:
    """Which run is reported on, and how."""

    run: Path
    """Folder of a run, with a folder for each stage; or that of one stage."""
    output: Path | None = None
    """Folder for the report; null means `report` in the run's folder, or NAME-report beside that of one stage."""
    title: str | None = None
    """Heading of the report; null makes one from the name of the run's folder."""
    language: Language = "en"
    """Language of everything but the documents: English or Chinese."""


def write_report(config: ReportConfig) -> Artifact:
    """Write `report.html` and `report.md` about a run; skipped when up to date.

    Raises UserError when the run has no finished stage, or one that does not match its manifest.
    """
    run = read_run(config.run)
    inputs = {stage.path.name: stage.digest for stage in run.stages}
    inside = [stage.path for stage in run.stages] != [config.run]
    output = config.output or (config.run / "report" if inside else config.run.with_name(f"{config.run.name}-report"))
    return build(
        output,
        "report",
        config,
        inputs,
        lambda folder: _write(run, config, folder),
        version=VERSION,
        ignore=("run", "output"),
    )


def _write(run: Run, config: ReportConfig, folder: Path) -> Mapping[str, Any]:
    report = compose(run, Words(config.language), probe(), config.title)
    write_text(folder / "report.html", to_html(report))
    write_text(folder / "report.md", to_markdown(report))
    return {"title": report.title, "sections": [section.name for section in report.sections]}
