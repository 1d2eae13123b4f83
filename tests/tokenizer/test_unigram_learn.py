"""Learning pieces: as good as SentencePiece's of the same size on the same text."""

import io
import itertools
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.kernels.viterbi import best_counts, build_trie, expected_counts, losses
from fromzero.tokenizer.unigram import SPACE, UnigramTokenizer, segment
from fromzero.tokenizer.unigram_learn import _digamma, learn_pieces

ENGLISH = "\n".join(str(module.__doc__) for module in (json, np, math, st, np.linalg)).splitlines()
CHINESE = (
    "从零开始训练一个语言模型。我们先读文档，再训练分词器，最后训练模型！文档里有中文，也有英文。分词器把文字变成数字。"
)


def pieces_of(text: str, scores: dict[str, float]) -> list[list[str]]:
    """All ways to cut a text."""
    if not text:
        return [[]]
    heads = (text[:i] for i in range(1, len(text) + 1))
    return [[head, *rest] for head in heads if head in scores for rest in pieces_of(text[len(head) :], scores)]


@settings(deadline=None)  # the first example compiles
@given(
    st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=5, unique=True),
    st.dictionaries(st.text("abc", min_size=2, max_size=3), st.floats(-9, -0.5), max_size=8),
)
def test_the_kernels_count_as_the_plain_definitions(units: list[str], longer: dict[str, float]) -> None:
    scores = {"a": -1.0, "b": -2.0, "c": -3.0} | longer
    text = "\0".join([*scores, *units])
    codes = np.frombuffer(text.encode("utf-32-le"), np.int32).copy()
    lengths = np.array([len(part) for part in [*scores, *units]])
    begins = np.cumsum(lengths + 1) - lengths - 1
    count, values = len(scores), np.array([*scores.values()])
    trie = build_trie(codes, begins[:count], lengths[:count])
    weights = np.arange(1.0, len(units) + 1)
    expected, likelihood = expected_counts(codes, begins[count:], lengths[count:], weights, trie, values, 3)
    plain, total = Counter[str](), 0.0
    for unit, weight in zip(units, weights, strict=True):
        ways = [(way, math.exp(sum(scores[piece] for piece in way))) for way in pieces_of(unit, scores)]
        whole = sum(share for _, share in ways)
        total += weight * math.log(whole)
        for way, share in ways:
            for piece in way:
                plain[piece] += weight * share / whole
    assert expected == pytest.approx([plain[piece] for piece in scores])
    assert likelihood == pytest.approx(total)
    best = best_counts(codes, begins[count:], lengths[count:], weights, trie, values)
    cut = Counter(
        piece for unit, n in zip(units, weights, strict=True) for piece in segment(unit, scores, -99.0) * int(n)
    )
    assert best.tolist() == [cut[piece] for piece in scores]
    missed = losses(codes, begins[:count], lengths[:count], best, trie, values)
    for piece, loss, used in zip(scores, missed, best, strict=True):
        others = {other: score for other, score in scores.items() if other != piece}
        if len(piece) == 1:
            assert loss == math.inf
        elif used and (split := segment(piece, others, -99.0)) and sum(others[p] for p in split) <= scores[piece]:
            after = math.log(best.sum() + used * (len(split) - 1))
            kept = math.log(used) - math.log(best.sum())
            assert loss == pytest.approx(used * (kept - sum(math.log(cut[p] + used) - after for p in split)))
        else:
            assert loss == -1


def marked_words(text: str) -> list[str]:
    return re.findall(f"{SPACE}?[^{SPACE}]+|{SPACE}", SPACE + text.replace(" ", SPACE))


@pytest.mark.parametrize(("lines", "size"), [(ENGLISH, 400), ([CHINESE] * 5 + ENGLISH, 300)])
def test_as_good_as_sentencepiece(lines: list[str], size: int) -> None:
    lines = [" ".join(line.split()) for line in lines if line.strip()]
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=file,
        vocab_size=size + 3,
        normalization_rule_name="identity",
        character_coverage=1.0,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    theirs = [(model.id_to_piece(i), model.get_score(i)) for i in range(3, size + 3)]
    words = Counter(word for line in lines for word in marked_words(line))
    ours = learn_pieces(words, size, coverage=1.0)
    assert len(ours) == size
    (tokens, likelihood), (tokens_there, likelihood_there) = _measure(ours, words), _measure(theirs, words)
    assert tokens <= 1.02 * tokens_there
    assert likelihood >= 1.02 * likelihood_there  # both are negative
    assert sum(math.exp(score) for _, score in ours) == pytest.approx(1, abs=0.15)  # some were pruned at the end


def _measure(pieces: list[tuple[str, float]], words: Counter[str]) -> tuple[int, float]:
    """Tokens, and log likelihood of the best path."""
    scored = [("<|unk|>", 0.0), *pieces]
    tokenizer = UnigramTokenizer(scored, special_tokens={"<|unk|>": 0})
    ids = [i for word, n in words.items() for i in tokenizer.encode(word) * n]
    assert 0 not in ids
    return len(ids), sum(scored[i][1] for i in ids)


def test_pieces_stay_inside_words_and_scripts() -> None:
    pieces = [piece for piece, _ in learn_pieces(Counter(marked_words((CHINESE + " abc123 ") * 9)), 120)]
    assert all(SPACE not in piece[1:] for piece in pieces)
    assert not [p for p in pieces if any(a.isalpha() != b.isalpha() for a, b in itertools.pairwise(p.strip(SPACE)))]


def test_rare_characters_are_left_out_and_frequent_ones_kept() -> None:
    counts = {"ab": 10_000, "ax": 1, "cb": 900}
    assert {piece for piece, _ in learn_pieces(counts, 20) if len(piece) == 1} == {"a", "b", "c"}
    assert {piece for piece, _ in learn_pieces(counts, 20, coverage=1.0) if len(piece) == 1} == {*"abcx"}


def test_without_room_there_are_the_characters_only() -> None:
    assert [piece for piece, _ in learn_pieces({"abc": 5}, 2)] == ["a", "b", "c"]
    assert learn_pieces({}, 10) == []


def test_digamma() -> None:
    assert _digamma(np.array([0.5, 1.0, 10.0, 1e6])) == pytest.approx(
        [-1.96351002602, -0.577215664902, 2.25175258907, 13.8155100579]
    )
