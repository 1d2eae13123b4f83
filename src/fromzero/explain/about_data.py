"""The sections about data: what went in, what was dropped and why, and how the tokenizer cuts what is left."""

from collections.abc import Mapping, Sequence
from typing import Any

from fromzero.corpus.document import REASONS
from fromzero.explain.blocks import Block, Charts, Section, Table, Text
from fromzero.explain.charts import Bar, BarChart
from fromzero.explain.gather import Run
from fromzero.explain.numbers import NO_BREAK, NONE, count, figure, share, size
from fromzero.explain.words import Words

MOST_LANGUAGES = 8  # in the chart; the table has all


def input_section(run: Run, words: Words) -> Section | None:
    """Sources with versions and licences, files by format, text by language."""
    blocks: list[Block] = []
    if run.documents and (sources := run.documents.summary.get("sources")):
        blocks.append(_sources(sources, words))
    if run.corpus:
        counts = run.corpus.summary
        blocks += [_files_read(counts["files"], words), _formats(counts, words), _languages(counts, words)]
    return Section("input", words("input"), tuple(blocks)) if blocks else None


def _sources(sources: Sequence[Mapping[str, Any]], words: Words) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            str(source["name"]),
            str(source["version"] or words("not_installed")),
            str(source["license"] or NONE),
            count(source["documents"]),
            size(source["bytes"]),
        )
        for source in sources
    ]
    documents, total = (sum(source[key] for source in sources) for key in ("documents", "bytes"))
    rows.append((words("total"), "", "", count(documents), size(total)))
    header = tuple(words(key) for key in ("source", "version", "license", "documents", "bytes"))
    return Table(header, tuple(rows), "lllrr", strong=(len(rows) - 1,))


def _files_read(files: Mapping[str, Any], words: Words) -> Text:
    listed = ", ".join(f"{suffix or NONE} {count(n)}" for suffix, n in files["passed_over_suffixes"].items())
    return Text(
        words(
            "files_read",
            files=count(files["read"] + files["unreadable"]),
            bytes=size(files["bytes"]),
            unreadable=count(files["unreadable"]),
            passed=count(files["passed_over"]),
            suffixes=words("suffixes", list=listed) if listed else "",
        )
    )


def _formats(counts: Mapping[str, Any], words: Words) -> Table:
    rows = [(kind, count(k["files"]), count(k["documents"]), size(k["bytes"])) for kind, k in counts["kinds"].items()]
    header = tuple(words(key) for key in ("format", "files", "kept_documents", "kept_bytes"))
    return Table(header, tuple(rows), "lrrr")


def _languages(counts: Mapping[str, Any], words: Words) -> Table:
    kept = counts["bytes"]["kept"]
    rows = [
        (words.name("language", name), count(t["documents"]), size(t["bytes"]), share(t["bytes"], kept))
        for name, t in counts["languages"].items()
    ]
    header = tuple(words(key) for key in ("language", "kept_documents", "kept_bytes", "share"))
    return Table(header, tuple(rows), "lrrr")


def dropped_section(run: Run, words: Words) -> Section | None:
    """The funnel from documents read to documents kept, as a chart and as a table that adds up."""
    if not run.corpus:
        return None
    counts = run.corpus.summary
    documents = counts["documents"]
    lead = words(
        "dropped_lead",
        **{key: count(documents[key]) for key in ("read", "kept", "rejected")},
        folder=f"{run.corpus.path.name}/rejected",
    )
    blocks: list[Block] = [
        Text(lead),
        Charts(tuple(_funnel_chart(counts, unit, words) for unit in ("documents", "bytes"))),
        _funnel_table(run, words),
    ]
    blocks += [Text(words(key, count=count(documents[key]))) for key in ("cut", "halved") if documents.get(key)]
    return Section("dropped", words("dropped"), tuple(blocks))


def _funnel_chart(counts: Mapping[str, Any], unit: str, words: Words) -> BarChart:
    title, written = ("funnel", count) if unit == "documents" else ("funnel_bytes", size)
    left = counts[unit]["read"]
    bars = [Bar(words("read"), left, written(left))]
    for row in counts["funnel"]:
        left -= row[unit]
        minus = f"−{NO_BREAK}{written(row[unit])}"
        bars.append(Bar(words.name("reason", row["reason"]), left, minus, dropped=row[unit]))
    bars.append(Bar(words("kept"), left, written(left)))
    return BarChart(words(title), tuple(bars), legend=(words("left"), words("taken")))


def _funnel_table(run: Run, words: Words) -> Table:
    assert run.corpus
    counts, config = run.corpus.summary, run.corpus.config
    documents, sizes = counts["documents"], counts["bytes"]

    def row(name: str, n: int, b: int, sign: str = "", setting: str = "") -> tuple[str, ...]:
        shares = share(n, documents["read"]), share(b, sizes["read"])
        return (name, sign * bool(n) + count(n), shares[0], sign * bool(b) + count(b), shares[1], setting)

    rows = [row(words("read"), documents["read"], sizes["read"])]
    for r in counts["funnel"]:
        name = words.name("reason", r["reason"])
        rows.append(row(name, r["documents"], r["bytes"], f"−{NO_BREAK}", _settings(r["reason"], config)))
    rows.append(row(words("kept"), documents["kept"], sizes["kept"]))
    rows += [row(words(side), documents[side], sizes[side]) for side in ("train", "validation")]
    header = (words("rule"), words("documents"), words("share"), words("size_bytes"), words("share"), words("setting"))
    return Table(header, tuple(rows), "lrrrrl", strong=(0, len(counts["funnel"]) + 1))


def _settings(reason: str, config: Mapping[str, Any]) -> str:
    """The settings that decide a rule with their values: 'filters.min_length: 50'."""
    parts = []
    for name in filter(None, REASONS.get(reason, "").split(" and ")):
        value: Any = config
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {inner}" for key, inner in value.items() if inner is not None)
        parts.append(f"{name}: {value}")
    return ", ".join(parts)


def tokenizer_section(run: Run, words: Words) -> Section | None:
    """Size of the vocabulary, and how many bytes a token stands for, by language."""
    if not run.tokenizer:
        return None
    found = run.tokenizer.summary
    lead = words(
        "tokenizer_lead", vocab=count(found["vocab_size"]), kind=found.get("kind", "bpe"), bytes=size(found["bytes"])
    )
    rates = _by_language(found["validation"])
    blocks: list[Block] = [Text(lead)]
    if len(rates) > 1:
        bars = [
            Bar(words.name("language", name), r["bytes_per_token"], figure(r["bytes_per_token"], 2))
            for name, r in rates[:MOST_LANGUAGES]
        ]
        blocks.append(Charts((BarChart(words("fertility"), tuple(bars)),)))
    blocks.append(_fertility_table(found, words))
    if run.tokens:
        splits = {side: count(run.tokens.summary[side]["tokens"]) for side in ("train", "validation")}
        blocks.append(Text(words("packed", **splits)))
    return Section("tokenizer", words("tokenizer"), tuple(blocks))


def _by_language(measured: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Languages, the one with the most text first."""
    return sorted(measured.get("languages", {}).items(), key=lambda item: (-item[1]["bytes"], item[0]))


def _fertility_table(found: Mapping[str, Any], words: Words) -> Table:
    train, held_out = found["train"], found["validation"]
    names = [name for name, _ in _by_language(train)]
    names += [name for name, _ in _by_language(held_out) if name not in names]

    def row(name: str, learned: Mapping[str, Any], held: Mapping[str, Any]) -> tuple[str, ...]:
        rates = (figure(part.get("bytes_per_token"), 2) for part in (learned, held))
        return (name, *rates, size(held.get("bytes")))

    rows = [row(words("all"), train, held_out)]
    rows += [
        row(words.name("language", name), train["languages"].get(name, {}), held_out["languages"].get(name, {}))
        for name in names
    ]
    learned, held = (words("bytes_per_token", part=words(side)) for side in ("train", "validation"))
    header = (words("language"), learned, held, words("measured"))
    return Table(header, tuple(rows), "lrrr", strong=(0,))


def mixture_section(run: Run, words: Words) -> Section | None:
    """What was asked of each source of a mixture, and what is drawn."""
    if not run.tokens or run.tokens.kind != "mixture":
        return None
    rows = [
        (
            str(row["phase"] or words("all")),
            row["source"],
            share(row["weight"], 1),
            *(count(row[key]) for key in ("available", "drawn")),
            *(figure(row[key], 2) for key in ("epochs", "max_epochs")),
            share(row["share"], 1),
        )
        for row in run.tokens.summary["table"]
    ]
    keys = ("phase", "source", "weight", "available", "drawn", "epochs", "max_epochs", "drawn_share")
    together = [i for i, row in enumerate(rows) if row[0] == words("all")]
    table = Table(tuple(words(key) for key in keys), tuple(rows), "llrrrrrr", strong=tuple(together))
    return Section("mixture", words("mixture"), (Text(words("mixture_lead")), table))
