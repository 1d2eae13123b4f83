"""`fromzero corpus build`: documents -> clean, deduplicated text."""

from fromzero.commands import Verb
from fromzero.console import say, table
from fromzero.corpus import CorpusConfig, build_corpus


def run(config: CorpusConfig) -> None:
    """Build the corpus and show what was kept and dropped."""
    corpus = build_corpus(config)
    documents, sizes, files = (corpus.summary[key] for key in ("documents", "bytes", "files"))
    rows: list[tuple[str, int, int]] = [("read", documents["read"], sizes["read"])]
    rows += [(f"- {row['reason']}", row["documents"], row["bytes"]) for row in corpus.summary["funnel"]]
    rows += [(side, documents[side], sizes[side]) for side in ("train", "validation")]
    table(str(corpus), ("documents", "count", "bytes"), rows)
    if files["passed_over"]:
        suffixes = ", ".join(f"{count} {suffix}" for suffix, count in files["passed_over_suffixes"].items())
        say(f"passed over, not a known format: {suffixes}")


VERB = Verb(CorpusConfig, run)
