"""The page of a comparison, from the command line to HTML: nothing in a text or a name is markup or a control."""

import re
from pathlib import Path

import pytest
from test_report import Page

from fromzero.commands import main
from fromzero.errors import UserError
from fromzero.explain import CompareConfig, compare_tokenizers
from fromzero.explain.about_tokenizers import compose_comparison
from fromzero.explain.blocks import Cuts, Report, Table
from fromzero.explain.compare_report import load_named
from fromzero.explain.words import Words
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.compare import compare

HOSTILE = "<script>alert(1)</script> & \x1b[31m \u202egnp.exe </p> \x00 {{ x }}"
ARABIC = "السلام عليكم 2024"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tokenizers: one of bytes, one that knows ab."""
    made = tmp_path_factory.mktemp("tokenizers")
    for name, merges in (("bytes", []), ("ab/tokenizer", [(97, 98)])):
        BPETokenizer(byte_vocabulary(merges), merges).save(made / name)
    return made


def report_of(folder: Path, text: str, group: str = "en", language: str = "en") -> Report:
    found = compare(load_named([str(folder / "bytes"), str(folder / "ab" / "tokenizer")]), {group: [text]})
    return compose_comparison(found, Words(language))  # type: ignore[arg-type]


def test_a_page_for_the_names_and_texts_of_a_stranger(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(HOSTILE, "utf-8")
    output = tmp_path / "made" / "page.html"
    given = (str(folder / "bytes"), f"<b>\u202e\x1b={folder / 'ab' / 'tokenizer'}")
    compare_tokenizers(CompareConfig(given, (tmp_path / "text.txt",), output))
    html = output.read_text("utf-8")
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe", "b"}
    assert all(link.startswith("#") for link in page.links)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    assert "<b>\\x202e\\x1b" in page.text
    assert "<script>alert(1)</script>·&·" in page.text.replace("\n", "")
    assert all(sign in page.text for sign in ("U+001B", "U+0000", "\\xE2"))
    tokens = re.findall(r'<span class="t[0-3]" title="\d+: [0-9A-F ]+">', html)
    assert len(tokens) == 2 * len(HOSTILE.encode() + b"1 31")  # the text and its numbers, by two tokenizers


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_the_page_says(folder: Path, language: str) -> None:
    report = report_of(folder, "abab c", language=language)
    words = Words(language)  # type: ignore[arg-type]
    (overview,) = (block for block in report.lead if isinstance(block, Table))
    assert overview.rows[0][:3] == ("bytes", "bpe", "256")
    assert overview.rows[1][4] == "1.50"
    rates, cuts, vocabularies = report.sections
    (table,) = (block for block in rates.blocks if isinstance(block, Table))
    assert [row[2:5] for row in table.rows] == [("1.00", "1.00", "3.00"), ("1.50", "1.50", "2.00")]
    (cut,) = (block for block in cuts.blocks if isinstance(block, Cuts))
    assert cut.rows[1][0] == words("cut_by", name="ab", tokens="4")
    assert cut.rows[1][1][0] == ("256: 61 62", (("a", False), ("b", False)))
    overlap = vocabularies.blocks[-1]
    assert isinstance(overlap, Table)
    assert [row[2].split("\u00a0")[0] for row in overlap.rows] == ["100.0", "100.0"]


def test_right_to_left_even_where_letters_fall_apart(folder: Path) -> None:
    for text, direction in ((ARABIC, "rtl"), ("1) " + ARABIC, "rtl"), ("a " + ARABIC, "ltr"), ("12", "ltr")):
        (cut,) = (block for block in report_of(folder, text).sections[1].blocks if isinstance(block, Cuts))
        assert cut.direction == direction


def test_markdown_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc", "utf-8")
    compare_tokenizers(
        CompareConfig((str(folder / "ab" / "tokenizer"),), (tmp_path / "text.txt",), tmp_path / "page.md")
    )
    assert "ab|c\n" in (tmp_path / "page.md").read_text("utf-8")


def test_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x=y").symlink_to(folder / "bytes")
    loaded = load_named([str(folder / "bytes"), str(folder / "ab" / "tokenizer"), str(tmp_path / "x=y")])
    assert list(loaded) == ["bytes", "ab", "x=y"]
    for given, message in (([], "no tokenizer"), ([f"a={folder}/bytes", f"a={folder}/ab"], "two tokenizers")):
        with pytest.raises(UserError, match=message):
            load_named(given)


def test_the_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("abab \x1b[31m", "utf-8")
    (tmp_path / "b.py").write_text("ab = 1\n", "utf-8")
    given = ["tokenizer", "compare", str(folder / "bytes"), str(folder / "ab" / "tokenizer")]
    assert main([*given, "--text", str(tmp_path / "a.txt"), str(tmp_path / "b.py")]) == 0
    said = capsys.readouterr().err
    assert "ab  ab|ab|·|U+001B|[|3|1|m" in said
    assert "\x1b" not in said
    assert "Latin" in said
    assert "code" in said
    assert main(given) == 0  # the built-in sample
    for wrong, message in (
        ([*given, "--text", str(tmp_path / "none.txt")], "no such file"),
        ([*given, str(tmp_path / "none")], "none"),
        ([*given, "--output", str(tmp_path)], "is a folder"),
        (["tokenizer", "compare"], "tokenizers"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
