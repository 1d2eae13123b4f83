"""Decontamination: planted items are found, with their place; what is alike by chance or by phrasing is told apart."""

import random

import pytest

from fromzero.corpus.decontaminate import EvaluationIndex, Match
from fromzero.errors import UserError

QUESTION = (
    "A farmer has seventeen sheep and sells all but nine of them at the market on Tuesday; how many sheep does the "
    "farmer have left when he comes home in the evening? The answer is nine."
)
FRAGE = "小明有十七只羊，星期二在集市上卖掉了九只以外的全部，晚上回家的时候他还剩几只羊？答案是九只。"
SETS = {"arithmetic": [QUESTION, "What is two plus two?"], "算术": [FRAGE, "二加二等于几？"]}


@pytest.fixture(scope="module")
def index() -> EvaluationIndex:
    return EvaluationIndex(SETS)


def test_planted_items_are_found(index: EvaluationIndex, english: str, chinese: str) -> None:
    changed = QUESTION.upper().replace(";", " --").replace(" ", "\n")
    assert index.matches("d", f"{english}\n{changed} {english}") == [
        Match("arithmetic", 0, "d", 1.0, changed.rstrip("."), True)
    ]
    assert index.matches("z", chinese + FRAGE + english + QUESTION) == [
        Match("arithmetic", 0, "z", 1.0, QUESTION.rstrip("."), True),
        Match("算术", 0, "z", 1.0, FRAGE.rstrip("。"), True),
    ]


def test_a_quotation_is_told_but_does_not_count(index: EvaluationIndex, english: str) -> None:
    quoted = " ".join(QUESTION.split()[2:16])
    (match,) = index.matches("d", f"{english} {quoted}, he said. {english}")
    assert (match.span, match.contaminated) == (quoted, False)
    assert 0 < match.share < 0.2
    strict = EvaluationIndex(SETS, share=0.05).matches("d", f"{english} {quoted}, he said. {english}")
    assert [match.contaminated for match in strict] == [True]


def test_the_longest_passage_is_shown(index: EvaluationIndex) -> None:
    words = QUESTION.split()
    short, long = " ".join(words[:14]), " ".join(words[12:28])
    assert index.matches("d", f"{short} and then {long} and then {short}")[0].span == long


def test_other_prose_has_no_match(index: EvaluationIndex, english: str, chinese: str) -> None:
    random_ = random.Random(0)
    for _ in range(100):  # the same words, in another order
        text = " ".join(random_.sample(QUESTION.split(), len(QUESTION.split()))) + "".join(random_.sample(FRAGE, 40))
        assert index.matches("d", text + english + chinese) == []
    assert index.matches("d", "") == []


@pytest.mark.parametrize(("words", "checked"), [(7, False), (8, True), (12, True), (13, True), (14, True)])
def test_short_items_are_one_run_or_unchecked(words: int, checked: bool) -> None:
    item = " ".join(QUESTION.split()[:words])
    index = EvaluationIndex({"short": [item]})
    matches = index.matches("d", f"He asked: {item}, and left.")
    assert [(match.share, match.span) for match in matches] == ([(1.0, item)] if checked else [])
    assert index.summary(matches)["short"] == {
        "items": 1,
        "unchecked": int(not checked),
        "contaminated": int(checked),
        "documents": int(checked),
    }


def test_phrasing_that_many_items_share_is_ignored() -> None:
    template = "Read the following passage with care and choose the one answer out of four that is right:"
    items = [f"{template} {' '.join(f'w{i}x{j}' for j in range(20))}" for i in range(12)]
    index = EvaluationIndex({"quiz": items, "few": items[:0]})
    assert index.matches("d", f"{template} something else altogether") == []
    assert [match.item for match in index.matches("d", items[7])] == [7]
    assert EvaluationIndex({"quiz": items[:10]}).matches("d", f"{template} something else") != []


def test_summary_counts_by_set(index: EvaluationIndex) -> None:
    matches = [match for name in "abc" for match in index.matches(name, QUESTION)]
    assert index.summary(matches) == {
        "arithmetic": {"items": 2, "unchecked": 1, "contaminated": 1, "documents": 3},
        "算术": {"items": 2, "unchecked": 1, "contaminated": 0, "documents": 0},
    }
    assert EvaluationIndex({}).matches("d", QUESTION) == []


@pytest.mark.parametrize("wrong", [{"words": 5}, {"least_words": 0}, {"share": 0.0}, {"share": 1.5}])
def test_values_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="decontaminate"):
        EvaluationIndex(SETS, **wrong)  # type: ignore[arg-type]
