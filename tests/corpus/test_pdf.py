"""PDFs drawn line by line, in the orders and with the decorations of real ones."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fromzero.corpus.formats import read
from fromzero.corpus.reading import ReadError, ReadSettings
from fromzero.corpus.settings import Limits

SETTINGS = ReadSettings(Limits(), "fast", "text")
Drawn = tuple[float, float, str]
_FONTS = (
    b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>",
    b"<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [<< /Type /Font"
    b" /Subtype /CIDFontType0 /BaseFont /STSong-Light /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1)"
    b" /Supplement 4 >> /FontDescriptor << /Type /FontDescriptor /FontName /STSong-Light /Flags 4 /FontBBox"
    b" [0 -200 1000 900] /ItalicAngle 0 /Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >> >>] >>",
)


def draw(pages: Sequence[Sequence[Drawn]], extra: bytes = b"") -> bytes:
    """A PDF of lines of 10 points at places from the lower left corner; Courier has 6 points a character."""
    kids = b" ".join(b"%d 0 R" % (5 + 2 * number) for number in range(len(pages)))
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [%b] /Count %d >>" % (kids, len(pages))]
    objects += _FONTS
    for number, lines in enumerate(pages):
        stream = b"BT " + b" ".join(_show(*line) for line in lines) + b" ET"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R /Resources"
            b" << /Font << /A 3 0 R /C 4 0 R >> >> >>" % (6 + 2 * number)
        )
        objects.append(b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream))
    out = b"%PDF-1.4\n"
    for number, body in enumerate(objects, 1):
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    return out + b"trailer\n<< /Size %d /Root 1 0 R %b >>\n%%%%EOF\n" % (len(objects) + 1, extra)


def _show(x: float, y: float, text: str) -> bytes:
    shown = b"(%b)" % text.encode() if text.isascii() else b"<%b>" % text.encode("utf-16-be").hex().encode()
    return b"/%b 10 Tf 1 0 0 1 %.1f %.1f Tm %b Tj" % (b"A" if text.isascii() else b"C", x, y, shown)


def column(x: float, y: float, lines: Sequence[str]) -> list[Drawn]:
    return [(x, y - 12 * number, line) for number, line in enumerate(lines)]


def text_of(tmp_path: Path, data: bytes, settings: ReadSettings = SETTINGS) -> str:
    path = tmp_path / "a.pdf"
    path.write_bytes(data)
    return "".join("".join(record.parse().blocks) for record in read(path, "pdf", settings))


LEFT = [
    "The keeper wrote the weather in a",
    "book each evening, and sent it to",
    "the harbour by the boat that came",
    "with bread and oil on every other",
    "morning, unless there was a storm",
    "that kept the boat in the harbour",
]
RIGHT = [
    "for longer than a week. His notes",
    "fill eleven books of thick paper.",
    "They are kept in the town, in the",
    "room above the post office, where",
    "everybody may read them when they",
    "ask the clerk for the iron key.",
]


@pytest.mark.parametrize("order", ["by columns", "by rows"])
def test_two_columns_are_read_one_after_the_other(tmp_path: Path, order: str) -> None:
    lines = [*column(50, 700, LEFT), *column(310, 700, RIGHT)]
    if order == "by rows":
        lines = [line for pair in zip(column(50, 700, LEFT), column(310, 700, RIGHT), strict=True) for line in pair]
    heading = (50.0, 730.0, "A heading that goes over both of the columns, from the left to the right.")
    text = text_of(tmp_path, draw([[heading, *lines]]))
    assert text == f"{heading[2]}\n\n{' '.join([*LEFT, *RIGHT])}"


def test_a_table_is_read_row_by_row(tmp_path: Path) -> None:
    names, prices = ["bread", "oil", "paper", "rope", "ink", "salt"], ["2", "12", "7", "3", "1", "2"]
    rows = [line for pair in zip(column(50, 700, names), column(300, 700, prices), strict=True) for line in pair]
    assert text_of(tmp_path, draw([rows])).split("\n") == [f"{n} {p}" for n, p in zip(names, prices, strict=True)]


def test_hyphens_at_line_ends(tmp_path: Path) -> None:
    lines = [
        "The experts for the harbour agreed in a committee about well-",
        "known facts of law, as had all the committees of the inter-",
        "national fleet, and also a well-known rule that every com-",
        "mittee in the self made harbour could call its own was self-",
        "made; from the years of the Great War, that is from 1914-",
        "1918, and all the years between, the old rule of the Anglo-",
        "French fleet held.",
    ]
    text = " ".join(text_of(tmp_path, draw([column(50, 700, lines)])).split())
    assert "every committee in" in text  # stands elsewhere in one word
    assert "the international fleet" in text  # stands nowhere else, and neither does "inter"
    assert "about well-known facts" in text  # stands elsewhere with a hyphen
    assert "was self-made;" in text  # both parts are words
    assert "from 1914-1918," in text
    assert "Anglo-French" in text


def test_running_heads_and_page_numbers_go(tmp_path: Path) -> None:
    pages = []
    for number in range(1, 6):
        head, foot = (50.0, 800.0, "The Lighthouse Book"), (290.0, 40.0, str(number))
        body = [f"This is page {word} of it." for word in ("one", "two", "three", "four", "five")][number - 1]
        pages.append([head, *column(50, 700, [body, *LEFT[number - 1 : number + 1]]), foot])
    text = text_of(tmp_path, draw(pages))
    assert "Lighthouse" not in text
    assert not any(character.isdigit() for character in text)
    assert all(f"page {word} of" in text for word in ("one", "two", "three", "four", "five"))


def test_chinese_lines_join_without_blanks(tmp_path: Path) -> None:
    text = "这条河发源于城外的群山蜿蜒九十里后汇入大海铁路修通以前船只沿河运送羊毛和木材后来码头上就只剩下渔民了。"
    indented = [(70.0, 700.0, text[:20]), (50.0, 688.0, text[20:42]), (50.0, 676.0, text[42:])]
    assert text_of(tmp_path, draw([indented])) == text


def test_paragraphs_and_short_lines_stay_apart(tmp_path: Path) -> None:
    poem = ["Tiger, tiger,", "burning bright", "in the forests"]
    lines = [*column(50, 700, LEFT), *column(50, 600, poem)]
    assert text_of(tmp_path, draw([lines])) == " ".join(LEFT) + "\n\n" + "\n".join(poem)


ENCRYPTED_ENTRY = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%b> /U <%b> >> /ID [<00> <00>]"
ENCRYPTED_ENTRY %= b"ab" * 32, b"cd" * 32


def test_an_encrypted_file(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"^encrypted file$"):
        text_of(tmp_path, draw([column(50, 700, LEFT)], ENCRYPTED_ENTRY))


def test_a_page_that_is_shown_a_thousand_times_is_bounded(tmp_path: Path) -> None:
    once, often = b"/Kids [5 0 R] /Count 1", b"/Kids [%b] /Count 999" % (b"5 0 R " * 999)
    data = draw([column(50, 700, LEFT * 3)]).replace(once, often)
    with pytest.raises(ReadError, match="document too large: more than 10,000 bytes"):
        text_of(tmp_path, data, ReadSettings(Limits(document_bytes=10_000), "fast", "text"))


def test_truncated_at_any_byte(tmp_path: Path) -> None:
    data = draw([column(50, 700, LEFT)])
    for length in range(0, len(data), 97):
        try:
            text_of(tmp_path, data[:length])
        except ReadError as error:
            assert str(error).startswith("damaged file")  # noqa: PT017 -- or there is text: both are right
