"""Compiled patterns cut any text as the `regex` module does; what can't be compiled is left to it."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import regex
from fuzz import CURIOUS, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.kernels import scan
from fromzero.tokenizer.automaton import compile_automaton
from fromzero.tokenizer.patterns import PATTERNS
from fromzero.tokenizer.pretokens import Pretokens, count_pretokens
from fromzero.tokenizer.splitter import Splitter

# As tiktoken 0.14 has them; ours say the same without possessive repeats, which other engines read in other ways.
PUBLISHED = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s""",
}
OTHERS = [
    r"\p{L}+",
    r"a+?b|a|(?:xy){2,3}?z*",
    r"(?:ab|a)(?:bc|c)?|.",
    r"\w+|[^\w\s]+|\s+",
    r"[[:alpha:]]+|\d{2}|\d(?=\d)|.",
    r"(?i:straße|k)+|[^a-c]{3,}|\n",
    r"(?:a|b*c)+d|a",
    r"x{0,2}y|[]x-]+",
    r"\u4e00+|[\u4e00-\u9fff]|\x41",
    r"[\U00050000-\U00051234]+|\U0010ABCD|[^\s]",
]
UNCOMPILED = [r"(?<=a)b|.", r"\ba|.", r"(?>a+)b|.", r"a++a|.", r"a$|.", r"(?=ab)a|.", r"\X", r"(?:a*)+b|."]
TEXTS = [*CURIOUS, *fuzzed()]
alphabet = (
    "abcxyzABK'sſSLlrRvVeEtmd  \t\n\r\u00a0\u2028019\u0663中文かな한ß\u212a\u0301é-_.,!/]\U0001f468\u200d\U0001d54f"
)
texts = st.text(st.sampled_from(alphabet) | st.characters(exclude_categories=["Cs"]), max_size=60)


def cut(splitter: Splitter, text: str) -> list[str]:
    data = text.encode()
    ends = [0, *splitter.cuts(data).tolist()]
    return [data[start:end].decode() for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize("pattern", [*PATTERNS.values(), *PUBLISHED.values(), *OTHERS])
def test_a_compiled_pattern_cuts_like_the_regex_module(pattern: str) -> None:
    splitter = Splitter([pattern])
    assert splitter.single is not None

    @given(texts)
    def check(text: str) -> None:
        assert cut(splitter, text) == splitter.pieces(text)

    cut(splitter, "compiled before the clock of a first example starts")
    check()
    for text in TEXTS:
        assert cut(splitter, text) == splitter.pieces(text)


@pytest.mark.parametrize("name", PATTERNS)
def test_characters_of_planes_that_are_tried_by_samples_are_classed_right(name: str) -> None:
    from fromzero.tokenizer import automaton

    sampled, found = compile_automaton(PATTERNS[name]), None
    assert sampled is not None
    everything = automaton._everything(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(automaton, "_everything", lambda all_of_them: everything)
        automaton._character_classes.cache_clear()
        found = compile_automaton(PATTERNS[name])
    automaton._character_classes.cache_clear()
    assert found is not None
    np.testing.assert_array_equal(sampled.classes, found.classes)
    np.testing.assert_array_equal(sampled.table, found.table)


@pytest.mark.parametrize("name", PUBLISHED)
def test_named_patterns_cut_as_the_published_ones(name: str) -> None:
    ours, theirs = Splitter([PATTERNS[name]]), Splitter([PUBLISHED[name]])
    for text in [*TEXTS, "a \n ", "a\n\n b  ", "\n\n", "x\u3000\r\n\n  "]:
        assert cut(ours, text) == cut(theirs, text) == regex.findall(PUBLISHED[name], text)


@pytest.mark.parametrize("pattern", UNCOMPILED)
def test_what_needs_backtracking_is_left_to_the_regex_module(pattern: str) -> None:
    assert compile_automaton(pattern) is None
    splitter = Splitter([pattern])
    for text in ("aab", "ab\n", "ba b", "aaa\n", "", "e\u0301e"):
        assert cut(splitter, text) == splitter.pieces(text)


@given(texts)
def test_several_patterns_cut_one_after_the_other(text: str) -> None:
    splitter = Splitter([r"\p{N}{1,3}", r"[\u4e00-\u9fff]+", PATTERNS["gpt2"]])
    assert cut(splitter, text) == splitter.pieces(text)
    assert "".join(cut(splitter, text)) == text


@pytest.mark.parametrize("blocks", [8, 11, 64])
def test_the_size_of_a_block_of_cuts_changes_nothing(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    splitter, text = Splitter([r"[ab]+c|[ab]"]), "".join(random.Random(blocks).choices("abcd", k=5000))
    data, automaton = np.frombuffer(text.encode() + bytes(16), np.uint8), splitter.single
    assert automaton is not None
    found, start, room = [0], 0, np.empty(blocks, np.int64)
    while start < len(text):
        count, start = scan.scan(
            data, start, len(text), True, automaton.classes, automaton.table, automaton.width, room
        )
        found += room[:count].tolist()
    assert [text[a:b] for a, b in itertools.pairwise(found)] == splitter.pieces(text)


def test_a_pattern_that_reads_the_same_text_again_and_again_is_stopped() -> None:
    with pytest.raises(UserError, match="looks too far ahead"):
        Splitter([r"a*b|a"]).cuts(b"a" * 100_000)


def test_a_pattern_that_backtracks_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fromzero.tokenizer.patterns.SECONDS", 0.5)
    with pytest.raises(UserError, match="takes too long"):
        Splitter([r"(?:a|aa)+\b(?!a)c|(?<!x)x"]).cuts(b"a" * 60)


WORDS = ["a", " the", "从零", "x" * 15, "y" * 16, "z" * 500, "\n", "é", "the "]


@pytest.mark.parametrize("pattern", [PATTERNS["fromzero"], r"(?<=\s)t|\w+|\W"])
@pytest.mark.parametrize("workers", [1, 3])
def test_counts_are_those_of_a_dictionary(pattern: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fromzero.tokenizer.pretokens.BATCH_BYTES", 20_000)
    choose, splitter = random.Random(3), Splitter([pattern])
    documents = ["".join(choose.choices([*WORDS, *TEXTS[:50]], k=20)) for _ in range(60)]
    expected = Counter(piece.encode() for text in documents for piece in splitter.pieces(text))
    found = count_pretokens(documents, splitter, workers)
    assert dict(found.items()) == expected
    assert [word for word, _ in found.items()] == list(expected)  # in the order of first appearance
    assert found.total_bytes == sum(len(text.encode()) for text in documents)


def test_rare_pretokens_are_dropped_when_there_are_too_many() -> None:
    pretokens = Pretokens({f"word{i:04}".encode(): 1 + i % 3 for i in range(100)}, max_bytes=500)
    assert dict(pretokens.items()) == {f"word{i:04}".encode(): 3 for i in range(100) if i % 3 == 2}
    assert pretokens.dropped == 67
    assert pretokens.total_bytes == 8 * sum(1 + i % 3 for i in range(100))
    assert len(pretokens.longer_than_one()[2]) == 33
