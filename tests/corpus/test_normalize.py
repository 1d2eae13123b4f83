from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.corpus.normalize import normalize, normalize_stream, repair, repair_stream

AWKWARD = st.text(
    st.one_of(
        st.sampled_from("a b\n\r\t\u3000\u00a0e\u0301\u200b\ufeff\u0085\u2028\u1100\u1161\x00\x0c语，é\ud800"),
        st.characters(),
    ),
    max_size=200,
)


def test_what_it_does() -> None:
    assert normalize("a\r\nb\rc\u2028d") == "a\nb\nc\nd"
    assert normalize("cafe\u0301") == "café"
    assert normalize("\ufeffzero\u200bwidth\x00\x07") == "zerowidth"
    assert normalize("blank  \t\n\u3000\n\n\n\nend") == "blank\n\nend"
    assert normalize("\n\n\ntext\n\n\n") == "text\n"
    assert normalize("\ttab stays") == "\ttab stays"
    assert normalize("a\ud800b") == "a\ufffdb"
    assert normalize("") == normalize("\n\n") == ""


def test_what_it_leaves() -> None:
    for text in (
        "全角，标点！１２３",
        "x² ﬁ ①",
        "👩\u200d👩\u200d👧",
        "می\u200cخواهم",
    ):  # NFKC would change the first two
        assert normalize(text) == text


@settings(max_examples=300, deadline=None)
@given(AWKWARD)
def test_idempotent(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    once.encode()


@settings(max_examples=300, deadline=None)
@given(st.lists(AWKWARD, max_size=6))
def test_blocks_come_out_as_the_whole(blocks: list[str]) -> None:
    assert "".join(normalize_stream(blocks)) == normalize("".join(blocks))


def test_a_megabyte_without_a_safe_place_is_still_bounded() -> None:
    block = "é" * 500_000
    pieces = list(normalize_stream([block] * 4))
    assert sum(map(len, pieces)) == 2_000_000
    assert max(map(len, pieces)) < 1_200_000


def test_wrongly_decoded_text_is_put_right_and_right_text_left() -> None:
    right = "café “quoted” – 文字，编码。\nñandú Größe\nПривет, мир\n日本語の文\n"
    for line in right.splitlines():
        assert repair(line.encode().decode("latin-1")) == line
    assert "".join(repair_stream(["ok caf", "Ã", "©\n文字", " stays Ã", "©"])) == repair("ok cafÃ©\n文字 stays Ã©")
    assert "".join(repair_stream(["é" * 70_000, "é"])) == "é" * 70_001
    assert repair("ok cafÃ©\n文字 stays\nThis â€” is") == "ok café\n文字 stays\nThis — is"
    for text in (right, "ﬁ １２３ &amp; ‘x’ \x1b[1m", "Ã", "A\u0303 \ud800", ""):
        assert repair(text) == text
