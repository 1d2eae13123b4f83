"""The compiled statistics against plain Python, on any text."""

import itertools
import math
import re
import time
import zlib
from collections import Counter

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fromzero.corpus.statistics import GRAMS, IDEOGRAPHS, NAMES, UNSPACED, measure

STOP_WORDS = ("the", "of", "的", "是")
# By Unicode's property Sentence_Terminal; the ones that the generated texts have.
TERMINAL = set(".!?。！？؟।…") - {"…"}
UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")


def is_mark(c: str) -> bool:
    return regex.match(r"\p{M}", c) is not None


def is_letter(c: str) -> bool:
    return regex.match(r"\p{L}", c) is not None


def is_digit(c: str) -> bool:
    return regex.match(r"\p{Nd}", c) is not None


def is_word(c: str) -> bool:
    return regex.match(r"[\p{L}\p{N}\p{M}]", c) is not None


def is_spaced(c: str) -> bool:
    return is_word(c) and not UNSPACED_CHARACTER.match(c)


def tokens_of(text: str) -> list[str]:
    tokens: list[str] = []
    kind = ""  # of the token that may go on: 'spaced', 'unspaced', 'symbol'
    for i, c in enumerate(text):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        if c.isspace():
            kind = ""
            continue
        joined = (c in ".@_" and is_spaced(before or " ") and is_spaced(after or " ")) or (
            c in ",:" and is_digit(before) and is_digit(after) and is_spaced(before) and is_spaced(after)
        )
        if kind == "spaced" and not joined and text.startswith("://", i):
            kind = "address"
        goes_on = (
            kind == "address"
            or (is_mark(c) and kind in ("spaced", "unspaced"))
            or (kind == "spaced" and (is_spaced(c) or joined))
            or (kind == "symbol" and c == before)
        )
        if goes_on:
            tokens[-1] += c
            continue
        tokens.append(c)
        kind = "spaced" if is_spaced(c) else "unspaced" if is_word(c) else "symbol"
        if c in "'’" and before and is_spaced(before) and is_letter(after) and is_spaced(after):
            kind = "spaced"
    return tokens


def share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def copies(parts: list[str]) -> list[str]:
    seen: set[str] = set()
    return [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]


def gram_share(name: str, tokens: list[str], text: str) -> float:
    n = int(re.findall(r"\d+", name)[0])
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    if name.startswith("top"):
        best, times = Counter(grams).most_common(1)[0] if grams else ((), 0)
        return share(len(" ".join(best)) * times, len(text))
    seen, repeated, i = set(), 0, 0
    while i < len(grams):
        if grams[i] in seen:
            repeated += sum(map(len, grams[i]))
            i += n
        else:
            seen.add(grams[i])
            i += 1
    return share(repeated, len(text))


def sentences_after_the_first(line: str) -> int:
    """Ends of sentences with more behind them than quotation marks."""
    quotes = "\"'’”)\\]」』）"
    return len(re.findall(rf"(?:[.!?؟।][{quotes}]*\s|[。！？])(?:[{quotes}]|\s)*+(?=[^.!?؟।。！？])", line))


def reference(text: str) -> dict[str, float]:
    """Every statistic, as simply as it can be said."""
    solid = "".join(text.split())
    tokens = tokens_of(text)
    words = [token for token in tokens if any(map(is_word, token))]
    spaced = [word for word in words if not UNSPACED_CHARACTER.match(word)]
    lines = [line for line in text.split("\n") if line.strip()]
    stripped = [line.strip() for line in lines]
    all_lines = text.removesuffix("\n").split("\n") if text else []
    paragraphs = re.split(r"\n{2,}", text.strip()) if text.strip() else []
    chunks = re.sub(f"[{UNSPACED}]", " ", text).split()
    chunk_characters = sum(map(len, chunks))
    han = len(re.findall(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]", text))
    data = text.encode("utf-8", "surrogatepass")
    line_copies = sum(map(len, copies(lines)))
    total = sum(map(len, stripped))
    return {
        "undecodable": share(solid.count("\ufffd"), len(solid)),
        "letters": share(sum(map(is_letter, solid)), len(solid)),
        "han": share(han, len(solid)),
        "word_share": share(sum(any(map(is_letter, token)) for token in tokens), len(tokens)),
        "hashes": share(text.count("#"), len(tokens)),
        "ellipses": share(text.count("...") + text.count("…"), len(tokens)),
        "newlines": share(text.count("\n"), len(tokens)),
        "bullets": share(sum(line.strip().startswith(("-", "•")) for line in all_lines), len(all_lines)),
        "ellipsis_lines": share(sum(line.strip().endswith(("...", "…")) for line in all_lines), len(all_lines)),
        "duplicate_lines": share(len(copies(lines)), len(lines)),
        "duplicate_line_characters": share(line_copies, len(text)),
        "duplicate_paragraphs": share(len(copies(paragraphs)), len(paragraphs)),
        "duplicate_paragraph_characters": share(sum(map(len, copies(paragraphs))), len(text)),
        "duplicate_characters": share(line_copies, len(text) - text.count("\n")),
        "line_ends": share(sum(line[-1] in TERMINAL for line in lines), len(lines)),
        "short_lines": share(sum(len(line) <= 30 for line in lines), len(lines)),
        "line_length": share(sum(map(len, lines)), len(lines)),
        "digits": share(sum(map(is_digit, text)), len(text)),
        "parentheses": share(sum(text.count(c) for c in "()（）"), len(text)),
        "words": len(words),
        "characters": len(solid),
        "stop_words": len(set(tokens) & set(STOP_WORDS)),
        "long_lines": sum(len(line) >= 200 for line in lines),
        "length": len(text.strip()) + 2 * len(IDEOGRAPH.findall(text)),
        "word_length": (
            share(chunk_characters, len(chunks)) if chunk_characters >= max(50, len(solid) / 2) else math.nan
        ),
        "mean_word_length": (share(sum(map(len, spaced)), len(spaced)) if 2 * len(spaced) >= len(words) else math.nan),
        "repeated_lines": share(sum(map(len, copies(stripped))), total) if total >= 50 else math.nan,
        "white_space": share(len(text) - len(solid), len(text)),
        "symbols": share(sum(not is_word(c) for c in solid), len(solid)),
        "sentences": len(lines) + sum(sentences_after_the_first(line) for line in stripped),
        "compressed": len(zlib.compress(data, 1)) / len(data) if len(data) >= 200 else math.nan,
        "urls": share(sum(map(len, re.findall(r"\b(?:https?://|www\.)\S+", text))), len(text)),
        "lorem_ipsum": text.lower().count("lorem ipsum"),
        "curly_brackets": text.count("{"),
        **{name: gram_share(name, tokens, text) for name in GRAMS},
    }


def check(text: str) -> None:
    expected, found = reference(text), measure(text, stop_words=STOP_WORDS)
    assert found.keys() == expected.keys() == set(NAMES)
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True, abs=0, rel=1e-12)


PIECES = (
    *"abe1#{(\n\n\n -•.,'’!?…\"", *"的是中、。！あ漢", "the", "of", "...", "\n\n", "Lorem ipsum", "3.5", "1,000",
    "it's", "e\u0301", "क्षि", "ไทย", "한국", "\ufffd", "\u3000", "\x1c", "https://a.b/c", "://", "_", "@", ":",
    "www.x", "👍", "\U0002a6d6", "x" * 40,
)  # fmt: skip


@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=80).map("".join), st.text(max_size=80)))
@example("")
@example("the end of the end of the end")
@example("\ud800 ,")
@example("2.२.3 ۱,۲")
@settings(deadline=None, max_examples=200)
def test_equal_on_any_text(text: str) -> None:
    check(text.translate({ord(c): None for c in set(text) - TERMINAL if unusual_end(c)}))


def unusual_end(c: str) -> bool:
    return regex.match(r"\p{Sentence_Terminal}", c) is not None


@given(
    st.lists(st.sampled_from(["a", "b", "the", "的", "中", "。", "\n", "#"]), min_size=60, max_size=150),
    st.sampled_from(["", " "]),
)
@settings(deadline=None, max_examples=60)
def test_equal_on_repetitive_text(pieces: list[str], between: str) -> None:
    check(between.join(pieces))


def test_tokens() -> None:
    text = "It's 3.5% of U.S. x-rays, isn't it?... 他说：“ok” ที่ 1,000.\n---me@home.org 10:30 http://a.b/c?d 3.x"
    expected = "It 's 3.5 % of U.S . x - rays , isn 't it ? ... 他 说 ： “ ok ” ที่ 1,000 . --- "
    expected += "me@home.org 10:30 http://a.b/c?d 3.x"
    assert tokens_of(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        ("\n \n", 0),
        ("One line", 1),
        ("One. Two! Three?", 3),
        ('He said "stop." Then 3.5 went... away.', 3),
        ("一句。两句！三句？\n四句", 4),
        ("他说：“走。”她不动。", 2),
        ("Title\n\nText of it.  More.", 3),
    ],
)
def test_sentences(text: str, sentences: int) -> None:
    assert measure(text, ["sentences"]) == {"sentences": sentences}


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError):
        measure("text", ["word"])


@pytest.mark.parametrize("unit", ["a", " ", ".", "。", "\n", "a.", ". ", ".\u00a0", "的", "ab ", "-\n", "www.", '."'])
def test_linear_time(unit: str) -> None:
    seconds = []
    for size in (50_000, 400_000):
        text = unit * (size // len(unit))
        started = time.perf_counter()
        measure(text)
        seconds.append(time.perf_counter() - started)
    assert seconds[1] < 5  # a quadratic one would take minutes


def test_every_length_of_a_row_of_tokens() -> None:
    text = "a b c d e f g h " * 20
    for n in itertools.chain(range(1, 20), (50, 159, 160, 161)):
        for name in (f"top_{n}grams", f"duplicate_{n}grams"):
            assert measure(text, [name]) == {name: gram_share(name, text.split(), text)}
