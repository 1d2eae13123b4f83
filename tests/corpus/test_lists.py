"""Domains, addresses and words of a list, on both sides of what is meant."""

import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.corpus.lists import LISTED_ADDRESS, LISTED_DOMAIN, LISTED_WORDS, Blocklist, Finder, Lists
from fromzero.errors import UserError


def written(path: Path, *entries: str) -> Path:
    path.write_text("\n".join(entries), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("url", "dropped"),
    [
        ("https://example.com", True),
        ("http://www.Example.COM:8080/a?b#c", True),
        ("//user:secret@a.b.example.com./", True),
        ("example.com/page", True),
        ("https://myexample.com", False),
        ("https://example.com.org", False),
        ("https://safe.org/?to=example.com", False),
        ("https://例子.中国/页", True),
        ("https://xn--fsqu00a.xn--fiqs8s", True),
        ("", False),
        ("http://[::1", False),
        ("." * 5000, False),
    ],
)
def test_domains(tmp_path: Path, url: str, dropped: bool) -> None:
    lists = Blocklist(Lists(domains=(written(tmp_path / "d", "# comment", "", "example.com", "例子.中国"),)))
    assert lists.judge(url, "text", "en") == (LISTED_DOMAIN if dropped else None)


def test_parts_of_addresses(tmp_path: Path) -> None:
    lists = Blocklist(Lists(addresses=(written(tmp_path / "a", "/Casino/", "xxx"),)))
    assert lists.judge("https://a.org/CASINO/1", "", "en") == LISTED_ADDRESS
    assert lists.judge("https://axxxb.org", "", "en") == LISTED_ADDRESS
    assert lists.judge("https://a.org/casinos", "casino xxx", "en") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a BAD word", 3), ("badly", 0), ("a-bad-word", 3), ("bad", 3), ("这是bad的", 3), ("_bad", 0), ("bad2", 0),
        ("sehr übel.", 4), ("Übeltäter", 0), ("дурак", 5), ("дураки", 0), ("very bad day", 12), ("very bad days", 3),
        ("他说脏话了", 2), ("ภาษาหยาบคาย", 3), ("é bad é", 3), ("ébad", 0), ("badé", 0), ("x", 0), ("C# #bad", 3),
        ("", 0),
    ],
)  # fmt: skip
def test_words_stand_alone_where_scripts_have_blanks(text: str, found: int) -> None:
    finder = Finder(["bad", "übel", "дурак", "very bad day", "脏话", "หยา", "badminton racket"], alone=True)
    assert finder.covered(text) == found


def test_share_and_languages(tmp_path: Path) -> None:
    words = {
        "en": written(tmp_path / "en", "bad"),
        "zh": written(tmp_path / "zh", "脏话"),
        "any": written(tmp_path / "any", "zzz"),
    }
    strict, loose = Blocklist(Lists(words=words)), Blocklist(Lists(words=words, max_words=0.3))
    assert strict.judge("", "seven bad", "en") == LISTED_WORDS
    assert strict.judge("", "seven bad", "de") is None
    assert strict.judge("", "zzz", "de") == LISTED_WORDS
    assert strict.judge("", "有脏话在", "zh") == LISTED_WORDS
    assert loose.judge("", "seven12 bad", "en") is None  # 3 of 10
    assert loose.judge("", "seven1 bad", "en") == LISTED_WORDS  # 3 of 9
    assert Blocklist(Lists()).judge("https://a.org", "bad", "en") is None


ALPHABET = "ab é我脏话._"


@given(st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=8), st.text(ALPHABET, max_size=40), st.booleans())
def test_as_a_regular_expression_finds_them(words: list[str], text: str, alone: bool) -> None:
    letter = "[A-Za-z0-9_\u00c0-\u07ff]"
    kept = sorted(set(words), key=len, reverse=True)
    sides = [
        (
            f"(?<!{letter})" if alone and re.match(letter, w) else "",
            f"(?!{letter})" if alone and re.match(letter, w[-1]) else "",
        )
        for w in kept
    ]
    pattern = "|".join(a + re.escape(w) + b for (a, b), w in zip(sides, kept, strict=True))
    expected = sum(len(match[0]) for match in re.finditer(pattern, text)) if pattern else 0
    assert Finder(words, alone).covered(text) == expected


def test_ten_thousand_words_cost_no_more_than_ten() -> None:
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghij脏话语言", k=5)) for _ in range(10_000)]
    text = "".join(chance.choices("abcdefghij脏话语言 ", k=400_000))
    times = []
    for finder in (Finder(words[:10], True), Finder(words, True)):
        finder.covered("warm")
        started = time.perf_counter()
        finder.covered(text)
        times.append(time.perf_counter() - started)
    assert times[1] < 20 * times[0] + 0.1


def test_a_list_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        Blocklist(Lists(domains=(tmp_path / "missing",)))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="text file in UTF-8"):
        Blocklist(Lists(words={"en": tmp_path / "binary"}))
    with pytest.raises(UserError, match="share between 0 and 1"):
        Lists(max_words=2)
