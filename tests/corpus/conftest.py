"""Documents as they come: a page, a PDF written by hand, prose in two languages."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fromzero.corpus import CorpusConfig

ENGLISH = (
    "The river rises in the hills above the town and runs for ninety miles before it meets the sea. "
    "Barges carried wool and timber along it until the railway came, and afterwards only fishermen used the quays. "
)
CHINESE = (
    "这条河发源于城外的群山，蜿蜒九十里后汇入大海。铁路修通以前，船只沿河运送羊毛和木材；后来码头上就只剩下渔民了。"
)


def shuffled(text: str, count: int, seed: int) -> str:
    """`count` words (or ideographs) of a text in random order: as varied as prose is, for texts of any length."""
    units, joint = (text.split(), " ") if " " in text else (list(text), "")
    return joint.join(random.Random(seed).choices(units, k=count))


@pytest.fixture
def essays() -> Callable[[int], list[str]]:
    """So many different Chinese texts of 100 to 300 ideographs (Chinese, because it needs no language model)."""
    return lambda count: [f"第{n}篇。{shuffled(CHINESE, 100 + n * 37 % 200, n)}" for n in range(count)]


@pytest.fixture
def novel() -> Callable[[int], str]:
    """English of so many words, in numbered paragraphs of a hundred."""
    return lambda words: "\n\n".join(f"Paragraph {n}. {shuffled(ENGLISH, 100, n)}" for n in range(words // 100))


@pytest.fixture
def english() -> str:
    return ENGLISH


@pytest.fixture
def chinese() -> str:
    return CHINESE


def make_pdf(text: str) -> bytes:
    """The smallest valid PDF with one page of text, a line of it to each line of the page."""
    lines = " T* ".join(f"({line}) Tj" for line in text.split("\n"))
    stream = f"BT /F1 12 Tf 14 TL 40 780 Td {lines} ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(out)
    return out + b"xref\n0 6\n0000000000 65535 f \n" + table + trailer


@pytest.fixture
def pdf() -> bytes:
    return make_pdf("The lighthouse keeper wrote down the weather each evening.\nHis notes fill eleven books of paper.")


@pytest.fixture
def page() -> Callable[[str, str], str]:
    """A web page in a given charset label, with a body between a menu and a footer."""

    def make(label: str, body: str) -> str:
        return (
            f'<!DOCTYPE html><html><head><meta charset="{label}"><title>标题 Title</title></head><body>'
            "<nav><ul><li><a href='/'>Home</a></li><li><a href='/about'>About</a></li></ul></nav>"
            f"<article><h1>标题 Title</h1><p>{body}</p></article>"
            "<footer><p>Copyright notice</p></footer><script>var secret = 1;</script></body></html>"
        )

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., CorpusConfig]:
    """Settings for tmp_path/in -> tmp_path/out with one worker; near duplicates are kept, as texts here are alike."""

    def make(**values: object) -> CorpusConfig:
        given: dict[str, object] = {"inputs": (tmp_path / "in",), "output": tmp_path / "out", "workers": 1}
        return CorpusConfig(**given | {"near_duplicates": None} | values)  # type: ignore[arg-type]

    return make
