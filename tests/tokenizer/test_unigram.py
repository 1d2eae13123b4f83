"""Unigram: the most likely way to cut a text, as the plain algorithm, `tokenizers` and SentencePiece find it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.kernels.viterbi import best_path, build_trie
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.normalize import prepend
from fromzero.tokenizer.stream import StreamDecoder
from fromzero.tokenizer.unigram import BYTES, SPACE, Metaspace, UnigramTokenizer, segment
from tests.tokenizer.fuzz import CURIOUS, assert_opens_alike, fuzzed

SPECIALS = {"<pad>": 0, "</s>": 1, "<|unk|>": 2}


def make(byte_fallback: bool = False, **settings: Any) -> UnigramTokenizer:
    choose = np.random.default_rng(0)
    words = [
        SPACE,
        SPACE + "a",
        SPACE + "the",
        "th",
        "he",
        "e",
        "t",
        "h",
        "ab",
        "abc",
        "bc",
        "你",
        "你好",
        "训练",
        "开始",
    ]
    words += [*"abc0123456789.,'-sdmlIl", "12", "\n", " ", "é", "in", "ing", "g", "n", "i", "x", "=", "\u3000"]
    words = list(dict.fromkeys(words))
    scored = [(word, float(score)) for word, score in zip(words, -choose.uniform(2, 9, len(words)), strict=True)]
    pieces = [*((text, 0.0) for text in SPECIALS), *(BYTES if byte_fallback else []), *scored]
    return UnigramTokenizer(pieces, "<|unk|>", SPECIALS, byte_fallback=byte_fallback, **settings)


LOSSLESS: dict[str, Any] = {"normalizer": prepend(SPACE), "metaspace": Metaspace("never"), "byte_fallback": True}


@pytest.mark.parametrize(
    "settings",
    [
        {"metaspace": Metaspace()},
        {"metaspace": Metaspace("first")},
        {"metaspace": Metaspace("never", split=False), "leading_space": False},
        {"metaspace": Metaspace(words=True), "suffix": ["</s>"]},
        {"metaspace": Metaspace(), "byte_fallback": True, "leading_space": False},
        LOSSLESS,
    ],
)
def test_other_libraries_agree(settings: dict[str, Any], tmp_path: Path) -> None:
    texts = [*CURIOUS, *fuzzed(), "the</s>the </s> the", "</s>abc", "a\u2581b \u2581 the"]
    assert_opens_alike(make(**settings), tmp_path, texts)


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    tokenizer = make(**LOSSLESS)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.replace(SPACE, " ")
    stream = StreamDecoder(tokenizer)
    assert "".join([stream.feed([i]) for i in ids]) + stream.flush() == text.replace(SPACE, " ")


SCORES = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.floats(-20, -0.1), min_size=1)


@settings(deadline=None)
@given(st.text("abcd", max_size=30), SCORES)
def test_the_kernel_finds_what_the_plain_algorithm_finds(text: str, scores: dict[str, float]) -> None:
    pieces = "".join(scores)
    lengths = np.array([len(piece) for piece in scores])
    codes = [np.frombuffer(part.encode("utf-32-le"), np.int32).copy() for part in (pieces, text)]
    trie = build_trie(codes[0], np.cumsum(lengths) - lengths, lengths)
    found, stops = best_path(codes[1], trie, np.array([*scores.values()]), -30.0, -1)
    plain = segment(text, scores, -30.0)
    assert [text[a:b] for a, b in zip([0, *stops], stops, strict=False)] == plain
    assert [i >= 0 for i in found] == [piece in scores for piece in plain]


@settings(deadline=None)
@given(st.text("abc", max_size=6), SCORES)
def test_no_other_way_to_cut_is_better(text: str, scores: dict[str, float]) -> None:
    scores = dict.fromkeys("abc", -25.0) | scores

    def ways(rest: str) -> list[list[str]]:
        return [[rest[:i], *way] for i in range(1, len(rest) + 1) if rest[:i] in scores for way in ways(rest[i:])] or (
            [] if rest else [[]]
        )

    best = max(sum(scores[piece] for piece in way) for way in ways(text))
    assert sum(scores[piece] for piece in segment(text, scores, -99.0)) == pytest.approx(best)


@pytest.mark.parametrize(
    ("pieces", "settings", "message"),
    [
        ([("a", -1.0)], {}, "unknown token '<.unk.>' is not among"),
        ([("<|unk|>", 0.0), ("a", -1.0), ("a", -2.0)], {"special_tokens": {"<|unk|>": 0}}, "one twice"),
        ([("<|unk|>", 0.0), ("a", float("nan"))], {"special_tokens": {"<|unk|>": 0}}, "'a' has a score"),
        ([("x", 0.0), ("a", -1.0)], {"special_tokens": {"<|unk|>": 0}}, "that of the piece 'x'"),
        ([("<|unk|>", 0.0)], {"special_tokens": {"<|unk|>": 0}, "byte_fallback": True}, "lacks the piece <0x00>"),
        ([("<|unk|>", 0.0)], {"special_tokens": {"<|unk|>": 0, "x": 9}}, "has id 9"),
    ],
)
def test_bad_parts_are_told(pieces: list[tuple[str, float]], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UnigramTokenizer(pieces, **settings)


def test_pieces_that_fill_the_memory_are_refused() -> None:
    with pytest.raises(UserError, match="more than 16777216 characters"):
        UnigramTokenizer([("<|unk|>", 0.0), ("a" * (1 << 24), -1.0)], special_tokens={"<|unk|>": 0})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "other than Metaspace"),
        (lambda t: t["pre_tokenizer"].update(replacement="_"), "other than Metaspace"),
        (lambda t: t["pre_tokenizer"].update(prepend_scheme="often"), "'often'"),
        (lambda t: t.update(decoder=None), "decoder other than Metaspace"),
        (lambda t: t["model"].update(unk_id=None), "no piece for unknown"),
        (lambda t: t["model"].update(unk_id=10**9), "no piece for unknown"),
        (lambda t: t["model"].update(vocab=[1, 2, 3, 4]), "not a tokenizer in Hugging Face's format"),
        (lambda t: t["model"]["vocab"].append(["b", "x"]), "not a tokenizer in Hugging Face's format"),
    ],
)
def test_what_cannot_be_represented_is_refused(edit: Any, message: str, tmp_path: Path) -> None:
    make(metaspace=Metaspace()).save(tmp_path)
    file = tmp_path / "tokenizer.json"
    saved = json.loads(file.read_text())
    edit(saved)
    file.write_text(json.dumps(saved))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)
