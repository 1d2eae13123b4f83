"""What answers come to: numbers and choices, as models and people write them."""

import time
from fractions import Fraction

import pytest

from fromzero.evaluation.answers import marked, read_block, read_choice, read_number
from fromzero.evaluation.instructions import follows

NUMBERS = {
    "The answer is 42.": "42",
    "so 3 + 4 = 7": "7",
    "10-3": "3",
    "about 3 – 5": "5",
    "- 5 apples": "5",
    "it is -5": "-5",
    "x=−8": "-8",
    "#### 1,234": "1234",
    "#### 12\nThat is 7 more than 5.": "12",
    "first #### 1, then\n#### 2": "2",
    r"\boxed{\frac{3}{4}}": "3/4",
    r"so $\boxed{1{,}000}$ dollars in 3 days": "1000",
    "<answer>7</answer>, not 99": "7",
    "$1,234,567.50": "2469135/2",
    "1,2,3": "3",
    "12,34": "34",
    "3/4 of it": "3/4",
    "-1/2": "-1/2",
    "1e3": "1000",
    ".5": "1/2",
    "12 cm²": "12",  # NFKC would make 122 or 2 of it
    "5 kg of CO2": "5",
    "答案是１２３。": "123",
    "所以。35": "35",
    "共３，５００元。": "3500",
    "－７．５": "-15/2",
    "１２／５": "12/5",
    "there are twelve": None,
    "": None,
    "5/0": None,
    "9" * 200: None,
    "1e999999999": None,
}


@pytest.mark.parametrize(("text", "value"), NUMBERS.items(), ids=lambda text: str(text)[:20])
def test_numbers(text: str, value: str | None) -> None:
    found = read_number(text)
    assert (found and found.value) == (value and Fraction(value))


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("25%", "25", True),
        ("25%", "0.25", True),
        ("0.25", "２５％", True),
        ("25%", "25 %", True),
        ("25%", "0.25%", False),
        ("25", "0.25", False),
        ("0.5", "1/2", True),
        ("0.333", "1/3", False),
    ],
)
def test_percent_and_fractions(one: str, two: str, same: bool) -> None:
    first, second = read_number(one), read_number(two)
    assert first is not None
    assert second is not None
    assert first.equals(second) == same


def test_tolerance_is_a_share_of_the_right_one() -> None:
    third, rounded = read_number("1/3"), read_number("0.333")
    assert third is not None
    assert rounded is not None
    assert rounded.equals(third, 0.01)
    assert not rounded.equals(third, 0.0001)


CHOICES = {
    "B": "B",
    "b": "B",
    "(C)": "C",
    "Ｂ": "B",
    "The answer is (C).": "C",
    "The correct answer is: **D**, not A": "D",
    "答案：Ｂ": "B",
    "答案为（Ｄ）。": "D",
    "选B。": "B",
    "A. because the sky is blue": "A",
    "A dog is what it is": None,
    "My answer: I think it is (B)": "B",
    "I like blue": "C",
    "It is dark red.": "B",  # and not red, which is in it
    "red or blue": None,
    r"\boxed{A}": "A",
    "<answer>C</answer> (B)": "C",
    "": None,
}


@pytest.mark.parametrize(("text", "letter"), CHOICES.items(), ids=lambda text: str(text)[:20])
def test_choices(text: str, letter: str | None) -> None:
    assert read_choice(text, ["red", "dark red", "blue", "green"]) == letter


PIECES = ("9", "1,111", "{", "\\boxed{", "<answer>", "-", " ", "answer ", "A", "```\n", "####", "[", "<<a", "\n", "*a")


@pytest.mark.parametrize("piece", PIECES)
def test_long_answers_take_no_time(piece: str) -> None:
    text = f"answer{piece * 30_000}x"  # where time grows with the square, minutes
    start = time.monotonic()
    for read in (read_number, read_choice, read_block, marked):
        read(text)
    for kind, number in (
        ("detectable_content:number_placeholders", {"num_placeholders": 1}),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}),
        ("detectable_format:title", {}),
    ):
        follows(text, {"id": kind, **number})
    assert time.monotonic() - start < 10


def test_marked_parts_and_blocks() -> None:
    assert marked(r"\boxed{a} and \boxed{\text{b {c}}}") == r"\text{b {c}}"
    assert marked("nothing") is None
    assert read_block("Here:\n```python\nx = 1\n```\nand\n```\ny\n```") == "x = 1\n"
    assert read_block("```json\n{") == "{"
    assert read_block("plain") == "plain"
