import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.corpus.cutting import cut
from fromzero.corpus.document import Document
from fromzero.corpus.splitting import hold_out, split_at, tail_position


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab \n。"), max_size=60), max_size=8), st.integers(4, 50))
def test_parts_join_to_the_text_and_stay_below_the_limit(blocks: list[str], limit: int) -> None:
    parts = list(cut(blocks, limit))
    assert "".join(parts) == "".join(blocks)
    assert all(0 < len(part) <= limit for part in parts)
    assert all(len(part) >= limit // 2 for part in parts[:-1])
    assert parts == list(cut(["".join(blocks)], limit))  # blocks don't show


def test_where_it_cuts() -> None:
    assert list(cut(["one two three\n\nfour five\nsix seven eight"], 20)) == [
        "one two three\n\n",
        "four five\nsix seven ",
        "eight",
    ]
    assert list(cut(["one two\nthree four five"], 12)) == ["one two\n", "three four ", "five"]
    assert list(cut(["春眠不觉晓。处处闻啼鸟。"], 8)) == ["春眠不觉晓。", "处处闻啼鸟。"]
    assert list(cut(["x" * 25], 10)) == ["x" * 10, "x" * 10, "x" * 5]
    assert list(cut(["never", " cut"], None)) == ["never cut"]


def documents(*texts: str) -> list[Document]:
    return [Document(str(i), text, "s", "", "en", {}) for i, text in enumerate(texts)]


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=9), st.floats(0.01, 0.99))
def test_the_tail_is_exactly_the_last_characters(texts: list[str], share: float) -> None:
    whole = "".join(texts)
    if len(whole) < 2:
        return
    position = tail_position(len(whole), share)
    sides = {"train": "", "validation": ""}
    for side, document in split_at(documents(*texts), position):
        assert document.text
        sides[side] += document.text
    assert (sides["train"], sides["validation"]) == (whole[:position], whole[position:])
    assert sides["train"]
    assert sides["validation"]


def test_the_tail_is_the_split_of_nanogpt() -> None:
    assert tail_position(1_115_394, 0.1) == int(1_115_394 * 0.9)


def held_out(listed: list[tuple[str, int]], share: float, most: int, seed: int) -> set[str]:
    ids, sizes = np.array([name for name, _ in listed], np.bytes_), np.array([size for _, size in listed])
    return {name.decode() for name in ids[hold_out(ids, sizes, share, most, seed)]}


@settings(deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=2, max_size=200), st.floats(0.01, 0.5), st.randoms())
def test_held_out_documents(sizes: list[int], share: float, order: object) -> None:
    listed = [(f"{i:032x}", size) for i, size in enumerate(sizes)]
    held = held_out(listed, share, 10**9, 0)
    assert 1 <= len(held) < len(sizes)
    shuffled = listed.copy()
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert held_out(shuffled, share, 10**9, 0) == held
    total = sum(size for name, size in listed if name in held)
    assert len(held) in (1, len(sizes) - 1) or abs(total - share * sum(sizes)) <= max(sizes) / 2 + 1


def test_the_cap_and_the_seed() -> None:
    listed = [(f"{i:032x}", 100) for i in range(1000)]
    assert len(held_out(listed, 0.5, 1000, 0)) == 10
    assert held_out(listed, 0.1, 10**9, 0) != held_out(listed, 0.1, 10**9, 1)
    with pytest.raises(ValueError, match="two documents"):
        held_out(listed[:1], 0.5, 1000, 0)
