"""A golden document on each side of each threshold, by its name in the settings."""

import time

import pytest

from fromzero.corpus import document as reasons
from fromzero.corpus.filters import judge
from fromzero.corpus.settings import Filters

PROSE = (
    "The lamps went out along the quay one after another. Nobody spoke while the ferry turned into the current. "
    "From the far bank came the sound of a dog, then a door, then nothing at all until morning. "
)
DIGITS = "3141592653"
# Words of different letters, so that nothing but the rule in question speaks against the text.
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words_of(length: int, count: int) -> str:
    # a step of 7 with a drifting start: no two words alike for 26 * 25 words
    return " ".join(
        "".join(LETTERS[(w * 5 + w // 26 + i * (3 + w % 7)) % 26] for i in range(length)) for w in range(count)
    )


def numbers(share: float) -> str:
    """600 characters that are not blank, the given share of them letters."""
    letters = round(600 * share)
    text = "".join(LETTERS[(i * i + i // 3) % 26] for i in range(letters))
    text += "".join(DIGITS[(i * i + i // 7) % 10] for i in range(600 - letters))
    return " ".join(text[i : i + 6] for i in range(0, 600, 6))


def repeated(share: float) -> str:
    """100 lines of equal length, the given share of them copies of an earlier one."""
    copies = round(100 * share)
    lines = [f"line {i:03d} {words_of(6, 700)[i * 40 : i * 40 + 40]:<40}x" for i in range(100 - copies)]
    return "\n".join(lines + [lines[i % len(lines)] for i in range(copies)])


GOLDEN = {
    "min_length": (Filters(min_length=50), reasons.TOO_SHORT, "x" * 20 + " " + "y" * 29, "x" * 20 + " " + "y" * 28),
    "min_length, ideographs": (
        Filters(),
        reasons.TOO_SHORT,
        "明月几时有，把酒问青天。不知天上宫阙，",
        "明月几时有，把酒问青天。不知天上",
    ),
    "max_undecodable": (Filters(), reasons.REPLACED, words_of(5, 198) + " �" * 10, words_of(5, 198) + " �" * 11),
    "min_letters": (Filters(max_word_length=20), reasons.FEW_LETTERS, numbers(0.31), numbers(0.29)),
    "min_word_length": (Filters(), reasons.WORD_LENGTH, words_of(2, 60), words_of(1, 60)),
    "max_word_length": (Filters(), reasons.WORD_LENGTH, words_of(15, 40), words_of(16, 40)),
    "max_repeated_lines": (Filters(), reasons.REPEATED_LINES, repeated(0.6), repeated(0.61)),
    "min_compressed": (Filters(), reasons.REPEATED_TEXT, PROSE * 6, PROSE * 40),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_document_on_each_side(name: str) -> None:
    settings, reason, kept, dropped = GOLDEN[name]
    assert judge(kept, settings) is None
    assert judge(dropped, settings) == reason


@pytest.mark.parametrize(
    "text",
    [
        "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
        "白日依山盡，黃河入海流。欲窮千里目，更上一層樓。",
        "Tyger Tyger, burning bright,\nIn the forests of the night;\nWhat immortal hand or eye",
        "## sort(a, axis=-1)\n\nReturn a sorted copy.\n\n    >>> np.sort([3, 1, 2])\n    array([1, 2, 3])\n",
        "| name | bytes | share |\n|---|---|---|\n| text | 1200 | 0.45 |\n| code | 3100 | 0.55 |\n",
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
        PROSE,
    ],
    ids=["jueju", "traditional", "poem", "documentation", "table", "japanese", "prose"],
)
def test_real_text_is_kept(text: str) -> None:
    assert judge(text, Filters()) is None


@pytest.mark.parametrize("text", ["", " ", "\n\n", "a", "。", "\ufffd"])
def test_next_to_nothing_never_crashes(text: str) -> None:
    assert judge(text, Filters()) in (reasons.EMPTY, reasons.TOO_SHORT)
    judge(text, Filters(min_length=0))


@pytest.mark.parametrize("unit", ["a", " ", "^", "\n", "e\u0301", "👍", "字", "a b ", "ab\n", "\ufffd"])
def test_linear_time_on_one_long_line(unit: str) -> None:
    started = time.perf_counter()
    judge(unit * (1_000_000 // len(unit)), Filters())
    assert time.perf_counter() - started < 5  # quadratic time would be hours
