"""What an answer says in the end: the part that it marks as its result, a number, or a choice."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

# Full-width forms are folded one to one. NFKC would also turn the square of `cm²` into a number of its own.
_FOLD: dict[int, int | str] = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_FOLD |= {
    ord(a): b for a, b in zip("。、　−–⁄÷٪【】", (". ", ", ", " ", "-", "-", "/", "/", "%", "[", "]"), strict=True)
}
_MARKS = (re.compile(r"####\s*([^\n]*)"), re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL))
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*(-?[\d.,]+)\s*\}")
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])((?<![\w)\]])-)?\$?(?<![A-Za-z0-9_.])"  # the 2 of CO2 is no number, the - of 10-3 no sign
    rf"({_DIGITS})(?:[eE]([-+]?[0-9]+))?(?:\s*/\s*(-?{_DIGITS}))?\s?(%)?"
)
_LONGEST = 100  # characters; what has more is no answer, and arithmetic on it takes long
_LETTER = "([A-HJ-Z])"  # I is a word
_SAID = re.compile(
    rf"(?i:answer|choice|option|答案|选择|选项|选)[\s*]{{0,9}}(?:is|为|是)?[\s*:(\[]{{0,9}}{_LETTER}(?![A-Za-z'])"
)
_LEADING = re.compile(rf"[\s*(\[]*{_LETTER}[\s*)\]]*(?:$|[.:,)\]\n])")
_BRACKETED = re.compile(rf"[(\[]{_LETTER}[)\]]")


class NoScore(Exception):  # noqa: N818 - an outcome, not a fault
    """There is no score; says why in a few words, by which such outcomes are counted."""


class Number(NamedTuple):
    """A number as it is written: `25 %` has the value 25, and is a percentage."""

    value: Fraction
    percent: bool = False

    def equals(self, other: "Number", tolerance: float = 0.0) -> bool:
        """Whether they are the same, up to a share of the other; where one alone has a percent sign, 25 % is 25 and
        also 0.25: questions ask for it either way."""
        values = [self.value, *([self.value / 100] if self.percent > other.percent else [])]
        others = [other.value, *([other.value / 100] if other.percent > self.percent else [])]
        return any(abs(a - b) <= abs(b) * Fraction(tolerance) for a in values for b in others)


def fold(text: str) -> str:
    """Full-width letters, digits and punctuation as their ASCII forms; nothing else changes."""
    return text.translate(_FOLD)


def marked(text: str) -> str | None:
    """What the answer marks as its result: the last `\\boxed{}`, line after `####`, or `<answer>`; None for none."""
    found = [match for mark in (*_MARKS, _BOXED) for match in mark.finditer(text)]
    return max(found, key=lambda match: match.end())[1].strip() if found else None


def read_block(text: str) -> str:
    """The first block of code between fences, else the whole text."""
    found = re.search(r"```[^\n`]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return found[1] if found else text


def read_number(text: str) -> Number | None:
    """The number that is marked as the result, else the last one; None where there is none."""
    folded = _FRACTION.sub(r"\1/\2", fold(text).replace("\\%", "%").replace("\\$", "$").replace("{,}", ","))
    part = marked(folded)
    found = list(_NUMBER.finditer(folded if part is None else part))
    if not found or len(found[-1][0]) > _LONGEST:
        return None
    sign, digits, exponent, divisor, percent = found[-1].groups()
    if abs(int(exponent or 0)) > _LONGEST:
        return None
    value = Fraction(digits.replace(",", "")) * Fraction(10) ** int(exponent or 0)
    below = Fraction((divisor or "1").replace(",", ""))
    return Number((-value if sign else value) / below, bool(percent)) if below else None


def read_choice(text: str, choices: Sequence[str] = ()) -> str | None:
    """The letter that an answer chooses, A for the first; None where that is not clear.

    In this order: what it marks as the result; the last letter after `answer`, `答案` or `选`; the letter that it
    begins with; the one text of `choices` that is in it; the last letter in brackets.
    """
    folded = fold(text)
    folded = marked(folded) or folded
    if said := _SAID.findall(folded):
        return str(said[-1]).upper()
    if leading := _LEADING.match(folded.upper() if len(folded.strip(" .()[]*\n")) == 1 else folded):
        return leading[1]
    lower = folded.casefold()
    named = [i for i, choice in enumerate(choices) if fold(choice).casefold() in lower]
    named = [i for i in named if not any(i != j and choices[i] in choices[j] for j in named)]  # `red` in `dark red`
    if len(named) == 1:
        return chr(ord("A") + named[0])
    return found[-1] if (found := _BRACKETED.findall(folded)) else None
