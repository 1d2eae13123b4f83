import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.characters import ByteTokenizer
from fromzero.tokenizer.compare import LEAST_BYTES, REPEAT_SECONDS, compare, shown, visible
from fromzero.tokenizer.compare_text import GROUP_BYTES, SAMPLE, clip, read_groups, script_group

AB = (ord("a"), ord("b"))
HAN = [tuple("从".encode()[:2]), (256, "从".encode()[2])]


class Upper(Tokenizer):
    """Knows capital letters only: others are unknown, and digits are refused."""

    kind = "upper"
    unknown: str | None = None

    def _encode(self, text: str) -> list[int]:
        if any(c.isdigit() for c in text):
            raise UserError("no digits")
        return [ord(c) - 65 if "A" <= c <= "Z" else 26 for c in text]


def bpe(merges: Iterable[tuple[int, int]] = ()) -> BPETokenizer:
    merges = list(merges)
    return BPETokenizer(byte_vocabulary(merges), merges)


def upper(roles: dict[str, str]) -> Upper:
    return Upper([*(bytes([c]) for c in range(65, 91)), b"<unk>"], {"<unk>": 26}, roles)


def test_counts_by_hand() -> None:
    found = compare({"bytes": bpe(), "ab": bpe([AB])}, {"en": ["abab cd", "x"], "zh": ["从零 a"]})
    raw, merged = found.tokenizers
    assert raw.groups["en"] == Counter(texts=2, bytes=8, characters=8, words=3, tokens=8, single_bytes=8)
    assert merged.groups["en"] == Counter(texts=2, bytes=8, characters=8, words=3, tokens=6, single_bytes=4)
    assert raw.groups["zh"] == Counter(texts=1, bytes=8, characters=4, words=3, tokens=8, single_bytes=8)
    assert merged.total == merged.groups["en"] + merged.groups["zh"]
    assert (raw.vocab_size, merged.vocab_size, merged.used) == (256, 257, 12)  # ab, the blank, c, d, x, six bytes, a
    assert merged.longest[0] == b"ab"
    assert (raw.lengths[:3], merged.lengths[:3]) == ((256, 0, 0), (256, 1, 0))
    assert found.overlap == ((1.0, 1.0), (256 / 257, 1.0))
    assert all(measured.speed is None for measured in found.tokenizers)


def test_speed_is_measured_where_there_is_enough_text() -> None:
    start = time.perf_counter()
    (measured,) = compare({"bytes": ByteTokenizer()}, {"en": ["ab " * LEAST_BYTES]}).tokenizers
    assert measured.speed is not None
    assert measured.speed > 1e5
    assert time.perf_counter() - start > 6 * REPEAT_SECONDS


def test_what_is_unknown_changed_or_refused() -> None:
    named, knowing = upper({"unk_token": "<unk>"}), upper({})
    knowing.unknown = "<unk>"
    found = compare({"upper": named, "knowing": knowing}, {"en": ["AB c", "AB"], "numbers": ["12"]})
    measured = found.tokenizers[0]
    assert measured.groups == found.tokenizers[1].groups
    assert measured.groups["en"] == Counter(
        texts=2, bytes=6, characters=6, words=3, tokens=6, single_bytes=4, unknown=2, changed=1
    )
    assert measured.groups["numbers"] == Counter(texts=1, changed=1)
    assert measured.total == measured.groups["en"]
    assert [passage.tokens["upper"] is None for passage in found.passages] == [False, False, True]
    assert sum(measured.lengths) == 26  # special tokens are no part of it


@given(st.text(max_size=40).filter(str.strip))
def test_a_cut_passage_joins_to_its_text(text: str) -> None:
    found = compare({"han": bpe(HAN)}, {"any": [text]})
    for passage in found.passages:
        tokens = passage.tokens["han"] or ()
        assert b"".join(piece for _, piece in tokens).decode() == passage.text
        assert not any(c.isspace() or not c.isprintable() for _, piece in tokens for c in shown(piece))


def test_long_passages_end_between_words_and_characters() -> None:
    family = "👨‍👩‍👧‍👦"
    found = compare({"bytes": bpe()}, {"en": ["word " * 200], "emoji": [family * 40], "odd": ["a" + "\u0301" * 300]})
    texts = {passage.group: passage.text for passage in found.passages}
    assert set(texts["en"].split()) == {"word"}
    assert texts["emoji"]
    assert not texts["emoji"].replace(family, "")
    assert "odd" not in texts


def test_signs_for_what_cannot_be_seen() -> None:
    assert visible(b" a\n") == [("·", True), ("a", False), ("↵", True)]
    assert shown("从".encode()[:2]) == "\\xE4\\xBB"
    assert shown("\x1b[31m\u202e\u200d\u3000".encode()) == "U+001B[31mU+202EU+200DU+3000"
    assert shown("\u0301e\u0301".encode()) == "◌\u0301e\u0301"


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("Hello, 世界", "zh"),
        ("a long English sentence with 中文", "Latin"),
        ("こんにちは世界", "ja"),
        ("안녕하세요", "ko"),
        ("السلام عليكم", "Arabic"),
        ("123 👍", "und"),
    ],
)
def test_groups_by_script(text: str, group: str) -> None:
    assert script_group(text) == group


def test_files_are_sorted_into_groups(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Some words, 1,234.5 of them.\n```py\nx = 10\n```\nAnd more.\n~~~\nopen", "utf-8")
    (tmp_path / "b.PY").write_text("y = 2\n", "utf-8")
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbf" + "从零开始".encode())
    (tmp_path / "d.bin").write_bytes(b"\xff")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "e.txt").write_text("hidden", "utf-8")
    groups = read_groups([tmp_path])
    assert groups == {
        "Latin": ["Some words, 1,234.5 of them.\nAnd more.\n"],
        "code": ["x = 10\nopen", "y = 2\n"],
        "zh": ["从零开始"],
        "numbers": ["1,234.5", "10", "2"],
    }
    assert read_groups([tmp_path / "c.txt"]) == {"zh": ["从零开始"]}


def test_a_corpus_is_read_by_its_languages(corpus: Artifact) -> None:
    groups = read_groups([corpus.path])
    assert set(groups) == {"en", "zh", "numbers"}  # the held-out documents


def test_the_sample_has_its_groups() -> None:
    assert set(read_groups([])) == {*SAMPLE, "numbers"}


def test_a_group_is_bounded_in_whole_characters(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x" + "从" * GROUP_BYTES, "utf-8")
    (group,) = read_groups([tmp_path]).values()
    assert sum(len(text.encode()) for text in group) in range(GROUP_BYTES - 3, GROUP_BYTES + 1)
    assert clip("从零", 5) == "从"
    assert clip("从零", -1) == ""


def test_text_that_cannot_be_read(tmp_path: Path, trained: Artifact) -> None:
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    (tmp_path / "empty.txt").write_bytes(b" \n")
    for path, message in (
        (tmp_path / "bad.txt", r"bad\.txt is not UTF-8 at byte 3"),
        (tmp_path / "empty.txt", "no text"),
        (tmp_path / "none", "no such file"),
        (trained.path, "corpus"),
    ):
        with pytest.raises(UserError, match=message):
            read_groups([path])
