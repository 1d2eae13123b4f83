"""Traced text is the text that Python makes, and each character keeps where it is from."""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fromzero.tokenizer.traced import ASSISTANT, GENERATED, TEMPLATE, Traced, all_from, concat, generated, join, runs

LETTERS = "ab \n<从"  # which one it is tells the origin, so that any text can be checked
ORIGINS = dict(zip(LETTERS, (0, TEMPLATE, ASSISTANT, GENERATED, TEMPLATE | GENERATED, 0), strict=True))
PLAIN = st.text(LETTERS, max_size=12)


def trace(text: str) -> Traced:
    return Traced(text, bytes(ORIGINS[letter] for letter in text))


def is_traced(text: Any) -> bool:
    return isinstance(text, Traced) and text.origins == trace(text).origins


@given(PLAIN, PLAIN, st.one_of(st.none(), st.text(LETTERS, min_size=1, max_size=2)), st.integers(-1, 3))
def test_parts_and_wholes_keep_origins(text: str, other: str, chars: str | None, count: int) -> None:
    one, two = trace(text), trace(other)
    for made, expected in (
        (one.strip(chars), text.strip(chars)),
        (one.lstrip(chars), text.lstrip(chars)),
        (one.rstrip(chars), text.rstrip(chars)),
        (one + two, text + other),
        (concat([one, two, one]), text + other + text),
        (join(one, [two, one, two]), text.join([other, text, other])),
        (one[count:], text[count:]),
        (one[::-1], text[::-1]),
        (str(one), text),
    ):
        assert made == expected
        assert is_traced(made)
    assert one.split(chars, count) == text.split(chars, count)
    assert all(map(is_traced, one.split(chars, count)))
    assert all(one[i] == text[i] and is_traced(one[i]) for i in range(-len(text), len(text)))


@given(PLAIN, PLAIN)
def test_what_is_plain_or_changed_is_someones_content(text: str, plain: str) -> None:
    for made, expected in ((trace(text) + plain, text + plain), (plain + trace(text), plain + text)):
        assert made == expected
        assert isinstance(made, Traced)
    assert (trace(text) + plain).origins == trace(text).origins + bytes(len(plain))  # type: ignore[attr-defined]
    for changed in (trace(text).title(), trace(text).removeprefix("a"), trace(text).casefold()):
        assert not isinstance(changed, Traced)
    upper = trace(text).upper()
    assert upper == text.upper()
    assert isinstance(upper, Traced) == (len(set(trace(text).origins)) == 1)
    replaced = trace(text).replace("a", plain)
    assert replaced == text.replace("a", plain)
    assert not isinstance(replaced, Traced) or set(replaced.origins) <= set(trace(text).origins)
    assert type(concat([text, plain])) is str


@given(PLAIN)
def test_runs_join_to_the_text(text: str) -> None:
    for bits in (TEMPLATE, GENERATED, TEMPLATE | GENERATED):
        found = list(runs(trace(text), bits))
        assert "".join(piece for piece, _ in found) == text
        assert all(is_traced(piece) for piece, _ in found)
        assert [origin for piece, origin in found for _ in piece] == [ORIGINS[letter] & bits for letter in text]
        assert all(a[1] != b[1] for a, b in itertools.pairwise(found))
        assert all_from(trace(text), bits) == all(ORIGINS[letter] & bits for letter in text)
    assert all_from(generated(text), GENERATED)


def test_splitting_into_very_many_pieces_makes_content_of_them() -> None:
    assert not any(isinstance(piece, Traced) for piece in trace("a b " * 9999).split())
