"""A comparison of tokenizers as a report: what each needs and loses, where each cuts, what its vocabulary holds."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from fromzero import __version__
from fromzero.explain.blocks import Cuts, Report, Section, Table, Text
from fromzero.explain.numbers import NO_BREAK, count, figure, share, size
from fromzero.explain.words import Words
from fromzero.tokenizer.compare import LEAST_BYTES, LENGTHS, Comparison, Measured, Passage, shown, visible
from fromzero.tokenizer.compare_text import GROUP_BYTES


def compose_comparison(found: Comparison, words: Words) -> Report:
    """The figures and the cut passages; names of tokenizers are taken as they are."""
    names = ", ".join(measured.name for measured in found.tokenizers)
    cuts = (_cuts(passage, words) for passage in found.passages)
    keys = ("name", "kind", "vocabulary", "used", "of_token", "encoding_speed", "changed")
    overview = _table(map(words, keys), map(_summary, found.tokenizers), "ll")
    longest = [(measured.name, "  ".join(map(_brief, measured.longest))) for measured in found.tokenizers]
    shared = [(m.name, *(share(x, 1) for x in row)) for m, row in zip(found.tokenizers, found.overlap, strict=True)]
    vocabularies = (
        _lengths(found, words),
        _table((words("name"), words("longest")), longest, "ll"),
        Text(words("overlap_lead")),
        _table((words("overlap"), *(measured.name for measured in found.tokenizers)), shared),
    )
    unmeasured = [] if found.tokenizers[0].speed else [Text(no_speed(words))]
    return Report(
        title=words("compare_title", names=names),
        language=words.language,
        lead=(Text(words("compare_lead", limit=size(GROUP_BYTES))), overview, *unmeasured),
        sections=(
            Section("rates", words("rates"), (Text(words("rates_lead")), _rates(found, words))),
            Section("cuts", words("cuts"), (Text(words("cuts_lead")), *cuts)),
            Section("vocabularies", words("vocabularies"), vocabularies),
        ),
        footer=words("footer", version=__version__, path=names),
    )


def no_speed(words: Words) -> str:
    """Why there are no speeds."""
    return words("no_speed", least=size(LEAST_BYTES))


def _table(header: Iterable[str], rows: Iterable[Sequence[str]], left: str = "l") -> Table:
    """A table whose first columns are words and the others figures."""
    header = tuple(header)
    return Table(header, tuple(map(tuple, rows)), left.ljust(len(header), "r"))


def _summary(measured: Measured) -> tuple[str, ...]:
    total, used = measured.total, share(measured.used, measured.vocab_size)
    figures = (used, _rate(total, "bytes", "tokens"), size(measured.speed), _changed(total))
    return (measured.name, measured.kind, count(measured.vocab_size), *figures)


def _rate(counts: Counter[str], what: str, each: str) -> str:
    return figure(counts[what] / counts[each] if counts[each] else None, 2)


def _changed(counts: Counter[str]) -> str:
    return f"{count(counts['changed'])}/{count(counts['texts'])}"


def _rates(found: Comparison, words: Words) -> Table:
    """Rows for each group, tokenizers one below another; the first names the group."""
    rows = []
    for group in found.tokenizers[0].groups:
        label = f"{words.name('language', group)}, {size(max(m.groups[group]['bytes'] for m in found.tokenizers))}"
        for measured in found.tokenizers:
            counts = measured.groups[group]
            pairs = (("bytes", "tokens"), ("characters", "tokens"), ("tokens", "words"))
            shares = (share(counts[key], counts["tokens"]) for key in ("single_bytes", "unknown"))
            rates = (_rate(counts, *pair) for pair in pairs)
            rows.append((label, measured.name, *rates, *shares, _changed(counts)))
            label = ""
    keys = ("group", "name", "of_token", "characters_of_token", "tokens_of_word", "single_bytes", "unknown", "changed")
    return _table(map(words, keys), rows, "ll")


def _cuts(passage: Passage, words: Words) -> Cuts:
    rows = []
    for name, tokens in passage.tokens.items():
        label = words("refused" if tokens is None else "cut_by", name=name, tokens=count(len(tokens or ())))
        drawn = ((f"{i}: {piece.hex(' ').upper()}", tuple(visible(piece))) for i, piece in tokens or ())
        rows.append((label, tuple(drawn)))
    # Left or right: by the first letter of the text that says so; a token may hold half of that letter.
    strong = next((d for c in passage.text if (d := unicodedata.bidirectional(c)) in ("L", "R", "AL")), "L")
    return Cuts(words.name("language", passage.group), tuple(rows), "ltr" if strong == "L" else "rtl")


def _lengths(found: Comparison, words: Words) -> Table:
    """How much of each vocabulary has tokens of 1, 2, ... 5-6, ... bytes."""
    starts = (1, *(last + 1 for last in LENGTHS))
    classes = [str(last) if first == last else f"{first}–{last}" for first, last in zip(starts, LENGTHS, strict=False)]
    rows = (
        (m.name, *(share(n, sum(m.lengths)).removesuffix(f"{NO_BREAK}%") for n in m.lengths)) for m in found.tokenizers
    )
    return _table((words("lengths"), *classes, f">{LENGTHS[-1]}"), rows)


def _brief(piece: bytes) -> str:
    """A token, or the beginning of a long one with its length in bytes."""
    text = shown(piece)
    return text if len(text) <= 24 else f"{text[:20]}…{NO_BREAK}({len(piece)})"
