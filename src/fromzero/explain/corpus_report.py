"""`fromzero corpus show`: a corpus -> corpus.html, a page about what was kept and dropped."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact, build, open_artifact
from fromzero.config import from_mapping
from fromzero.corpus.settings import Filters
from fromzero.explain.about_corpus import compose_corpus
from fromzero.explain.corpus_look import look_into
from fromzero.explain.page import to_html
from fromzero.explain.words import Language, Words
from fromzero.files import write_text

PAGE = "corpus.html"
VERSION = 1


@dataclass(frozen=True)
class ShowConfig:
    """Which corpus is shown, and how."""

    corpus: Path
    """Folder of a corpus."""
    output: Path | None = None
    """Folder for the page; null means one beside the corpus, called as it with `-report` after it."""
    language: Language = "en"
    """Language of everything but the documents: English or Chinese."""
    open: bool = False
    """Open the page in a browser."""


def show_corpus(config: ShowConfig) -> Artifact:
    """Write the page; skipped when up to date.

    Raises UserError when there is no finished corpus, and for a shard that is damaged.
    """
    corpus = open_artifact(config.corpus, "corpus", hashes=False)
    corpus = replace(corpus, path=corpus.path.absolute())  # '.' has no name
    output = config.output or corpus.path.with_name(f"{corpus.path.name}-report")
    ignored = ("corpus", "output", "open")
    inputs = {"corpus": corpus.digest}
    return build(output, "report", config, inputs, lambda f: _write(corpus, config, f), version=VERSION, ignore=ignored)


def _write(corpus: Artifact, config: ShowConfig, folder: Path) -> Mapping[str, Any]:
    filters = from_mapping(Filters, corpus.config["filters"], f"{corpus.path}: filters")
    report = compose_corpus(corpus, look_into(corpus.path, corpus.summary, filters), filters, Words(config.language))
    write_text(folder / PAGE, to_html(report))
    return {"title": report.title, "sections": [section.name for section in report.sections]}
