"""Parts of the corpus room beside their peers, on the same documents.

    python bench/corpus.py filters CORPUS.jsonl [--megabytes 4] [--rounds 3] [--save]
    python bench/corpus.py html FOLDER... [--megabytes 4] [--rounds 5] [--save]

CORPUS.jsonl has one JSON string a line, as `bench/tokenizer.py corpus` writes it. The systems take turns in one process
on one core. datatrove cuts words with spaCy and keeps those of the last five texts, so all its filters run on a text
before the next, and it cuts each text once. The folders hold web pages, on which the systems take turns page by page.
"""

import argparse
import importlib.metadata
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import fail, machine_lines, markdown_table, publish
from fromzero.corpus.filters import judge, refine
from fromzero.corpus.html import decode_html, page_text
from fromzero.corpus.language import identify
from fromzero.corpus.normalize import normalize
from fromzero.corpus.rules import RULES, WHOLE
from fromzero.corpus.settings import Filters

Judge = Callable[[str], str | None]
OWN_OFF: dict[str, Any] = {rule.name: None for rule in WHOLE if rule.source.startswith("fromzero")}
REPETITION_OFF: dict[str, Any] = {"top_n_grams": (), "dup_n_grams": ()} | dict.fromkeys(
    ("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac")
)
QUALITY_OFF: dict[str, Any] = dict.fromkeys(
    ("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length", "max_symbol_word_ratio",
     "max_bullet_lines_ratio", "max_ellipsis_lines_ratio", "max_non_alpha_words_ratio", "min_stop_words")
)  # fmt: skip
FINEWEB_OFF = {"line_punct_thr": 0.0, "short_line_thr": 1.0, "char_duplicates_ratio": 1.0, "new_line_ratio": 1e9}
# Rules that have nothing to do with words: what they are here, and there. Their decisions must be the same.
SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "max_duplicate_paragraphs": ("GopherRepetitionFilter", REPETITION_OFF | {"dup_para_frac": 0.3}),
    "max_duplicate_paragraph_characters": ("GopherRepetitionFilter", REPETITION_OFF | {"dup_para_char_frac": 0.2}),
    "max_duplicate_lines": ("GopherRepetitionFilter", REPETITION_OFF | {"dup_line_frac": 0.3}),
    "max_duplicate_line_characters": ("GopherRepetitionFilter", REPETITION_OFF | {"dup_line_char_frac": 0.2}),
    "max_bullets": ("GopherQualityFilter", QUALITY_OFF | {"max_bullet_lines_ratio": 0.9}),
    "max_ellipsis_lines": ("GopherQualityFilter", QUALITY_OFF | {"max_ellipsis_lines_ratio": 0.3}),
    "min_line_ends": ("FineWebQualityFilter", FINEWEB_OFF | {"line_punct_thr": 0.12}),
    "max_short_lines": ("FineWebQualityFilter", FINEWEB_OFF | {"short_line_thr": 0.67}),
    "max_duplicate_characters": ("FineWebQualityFilter", FINEWEB_OFF | {"char_duplicates_ratio": 0.01}),
}
# The same for rules about words, which spaCy cuts a little otherwise: it keeps addresses and abbreviations whole.
CLOSE: dict[str, tuple[str, dict[str, Any]]] = {
    "max_top_2grams": ("GopherRepetitionFilter", REPETITION_OFF | {"top_n_grams": ((2, 0.2),)}),
    "max_top_4grams": ("GopherRepetitionFilter", REPETITION_OFF | {"top_n_grams": ((4, 0.16),)}),
    "max_duplicate_5grams": ("GopherRepetitionFilter", REPETITION_OFF | {"dup_n_grams": ((5, 0.15),)}),
    "max_duplicate_10grams": ("GopherRepetitionFilter", REPETITION_OFF | {"dup_n_grams": ((10, 0.1),)}),
    "min_words": ("GopherQualityFilter", QUALITY_OFF | {"min_doc_words": 50}),
    "min_mean_word_length": ("GopherQualityFilter", QUALITY_OFF | {"min_avg_word_length": 3}),
    "max_mean_word_length": ("GopherQualityFilter", QUALITY_OFF | {"max_avg_word_length": 10}),
    "min_word_share": ("GopherQualityFilter", QUALITY_OFF | {"max_non_alpha_words_ratio": 0.8}),
    "min_stop_words": ("GopherQualityFilter", QUALITY_OFF | {"min_stop_words": 2}),
    "max_newlines": ("FineWebQualityFilter", FINEWEB_OFF | {"new_line_ratio": 0.3}),
}


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    filters, html = parts.add_parser("filters"), parts.add_parser("html")
    filters.add_argument("corpus", type=Path)
    html.add_argument("folders", type=Path, nargs="+")
    for part, rounds in ((filters, 3), (html, 5)):
        part.add_argument("--megabytes", type=float, default=4)
        part.add_argument("--rounds", type=int, default=rounds)
        part.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    {"filters": bench_filters, "html": bench_html}[arguments.part](arguments)


def bench_filters(arguments: argparse.Namespace) -> None:
    """Speed of Gopher's, C4's and FineWeb's rules and agreement of what they decide."""
    texts = _texts(arguments.corpus, arguments.megabytes)
    size = sum(len(text.encode()) for text in texts)
    systems = {"fromzero": _ours(), "datatrove": _theirs()}
    for system in systems.values():
        system(texts[0])  # compiled, and loaded
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    decided: dict[str, list[str | None]] = {}
    for number in range(arguments.rounds):
        for name in sorted(systems, reverse=bool(number % 2)):
            started = time.perf_counter()
            decided[name] = [systems[name](text) for text in texts]
            seconds[name].append(time.perf_counter() - started)
            print(f"round {number + 1}: {name} {seconds[name][-1]:.2f} s", flush=True)
    ratios = sorted(t / o for t, o in zip(seconds["datatrove"], seconds["fromzero"], strict=True))
    rows = [[name, f"{size / 1e6 / statistics.median(each):.2f}"] for name, each in seconds.items()]
    body = (
        f"{len(texts)} documents in English, {size / 1e6:.1f} MB, one core, {arguments.rounds} rounds in turn. "
        f"fromzero is faster by {statistics.median(ratios):.0f} times ({ratios[0]:.0f} to {ratios[-1]:.0f}).\n\n"
        + markdown_table(["Gopher, C4 and FineWeb", "MB/s, median"], rows)
        + "\n\n"
        + _agreement(decided["fromzero"], decided["datatrove"])
        + "\n\n"
        + _rules_alone(texts)
    )
    versions = {name: importlib.metadata.version(name) for name in ("datatrove", "spacy", "numba")}
    publish("corpus-filters", "Quality rules", body, machine_lines(**versions), arguments.save)


def _texts(corpus: Path, megabytes: float) -> list[str]:
    """English documents in normal form, until there are enough."""
    texts, size = [], 0
    for line in corpus.open(encoding="utf-8"):
        text = normalize(json.loads(line)).strip()
        if 200 < len(text) < 100_000 and identify(text) == "en":
            texts.append(text)
            size += len(text.encode())
            if size > megabytes * 1e6:
                return texts
    return texts or fail(f"{corpus} has no document in English")


def _ours() -> Judge:
    settings = Filters(profile="web", **OWN_OFF)
    return lambda text: refine(text, settings, "en")[1]


def _theirs() -> Judge:
    filters = _peer()
    steps = [
        filters.GopherRepetitionFilter(),
        filters.GopherQualityFilter(),
        filters.C4QualityFilter(filter_no_terminal_punct=False),
        filters.FineWebQualityFilter(),
    ]
    return lambda text: _run(steps, text)


def _peer() -> Any:
    try:
        import spacy  # noqa: F401
        from datatrove.pipeline import filters
    except ImportError as error:
        fail(f"needs the peer ({error}): pip install datatrove==0.10.1 spacy")
    return filters


def _run(steps: Sequence[Any], text: str) -> str | None:
    from datatrove.data import Document

    document = Document(text=text, id="")
    for step in steps:
        kept = step.filter(document)
        if kept is not True:
            return str(kept[1])
    return None


def _agreement(ours: list[str | None], theirs: list[str | None]) -> str:
    """How often both keep or drop, and where they differ most."""
    same = sum((a is None) == (b is None) for a, b in zip(ours, theirs, strict=True))
    differ: Counter[tuple[str, str]] = Counter()
    for a, b in zip(ours, theirs, strict=True):
        if (a is None) != (b is None):
            differ[a.split(": ")[1].split()[0] if a else "kept", b or "kept"] += 1
    rows = [[mine, other, str(count)] for (mine, other), count in differ.most_common(8)]
    kept = f"fromzero keeps {ours.count(None)}, datatrove {theirs.count(None)}"
    return (
        f"Both decide alike on {same / len(ours):.1%} of the documents; {kept}. Where they differ:\n\n"
        + markdown_table(["fromzero", "datatrove", "documents"], rows)
    )


def _rules_alone(texts: list[str]) -> str:
    """Each rule alone: what it drops, and how often both decide alike; the bench fails where they must and don't."""
    filters, rows = _peer(), []
    steps = {name: [getattr(filters, kind)(**settings)] for name, (kind, settings) in (SAME | CLOSE).items()}
    ours: dict[str, list[bool]] = {name: [] for name in steps}
    theirs: dict[str, list[bool]] = {name: [] for name in steps}
    for text in texts:
        for name, step in steps.items():
            settings = Filters(**OWN_OFF, limits={name: RULES[name].web})
            ours[name].append(judge(text, settings, "en") is not None)
            theirs[name].append(_run(step, text) is not None)
            if name in SAME and ours[name][-1] != theirs[name][-1]:
                fail(f"{name} decides otherwise than datatrove about {text[:200]!r}")
    for name in steps:
        alike = sum(a == b for a, b in zip(ours[name], theirs[name], strict=True)) / len(texts)
        rows.append([name, str(sum(ours[name])), str(sum(theirs[name])), f"{alike:.1%}"])
    header = ["each rule alone", "fromzero drops", "datatrove drops", "alike"]
    return (
        "The rules above `max_top_2grams` have nothing to do with words, so all decisions must be the same. The others "
        "count words, which spaCy cuts a little otherwise: it keeps addresses and abbreviations whole.\n\n"
        + markdown_table(header, rows)
    )


def bench_html(arguments: argparse.Namespace) -> None:
    """Both ways to find the main text of a page beside the library that does most of the work in each."""
    import trafilatura
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    systems: dict[str, Callable[[bytes], str | None]] = {
        "fromzero, precise": lambda data: "".join(page_text(decode_html(data), "precise").blocks),
        "trafilatura": lambda data: trafilatura.extract(data, favor_precision=True, include_comments=False),
        "fromzero, fast": lambda data: "".join(page_text(decode_html(data), "fast").blocks),
        "resiliparse": lambda data: extract_plain_text(
            bytes_to_str(data, detect_encoding(data)), main_content=True, alt_texts=False
        ),
    }
    pages = _pages(arguments.folders, arguments.megabytes)
    size, seconds = sum(map(len, pages)), {name: [0.0] * arguments.rounds for name in systems}
    for number in range(-1, arguments.rounds):  # the round before the first warms up
        for page, data in enumerate(pages):
            for name in sorted(systems, reverse=bool((number + page) % 2)):
                started = time.process_time()
                systems[name](data)
                seconds[name][number] += time.process_time() - started if number >= 0 else 0
    rows = []
    for name, each in seconds.items():
        peer = seconds["trafilatura" if name in ("fromzero, precise", "trafilatura") else "resiliparse"]
        ratios = sorted(p / e for p, e in zip(peer, each, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        rows.append([name, f"{size / 1e6 / statistics.median(each):.2f}", spread])
    body = (
        f"{len(pages)} pages, {size / 1e6:.1f} MB, one core, {arguments.rounds} rounds in turn; bytes in, text out. "
        "Besides what the library does, fromzero joins Chinese lines, keeps the lines of code, lists and tables, and "
        "looks at everything visible when there is no main part to be found.\n\n"
        + markdown_table(["main text of web pages", "MB/s, median", "speed beside the library"], rows)
    )
    versions = {name: importlib.metadata.version(name) for name in ("trafilatura", "resiliparse")}
    publish("corpus-html", "Web pages", body, machine_lines(**versions), arguments.save)


def _pages(folders: Sequence[Path], megabytes: float) -> list[bytes]:
    """Pages evenly from each folder, about so many megabytes of all."""
    pages = []
    for folder in folders:
        paths = sorted(folder.rglob("*.html"))
        wanted = megabytes * 1e6 / len(folders) / max(1, sum(path.stat().st_size for path in paths))
        pages += [path.read_bytes() for n, path in enumerate(paths) if int((n + 1) * wanted) > int(n * wanted)]
    return pages or fail("there are no .html files in these folders")


if __name__ == "__main__":
    main()
