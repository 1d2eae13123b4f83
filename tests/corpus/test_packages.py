"""Word and EPUB files made part by part, and hostile ones."""

import zipfile
from pathlib import Path

import pytest

from fromzero.corpus.formats import read
from fromzero.corpus.reading import ReadError, ReadSettings, reason_of
from fromzero.corpus.settings import Limits

SETTINGS = ReadSettings(Limits(), "fast", "text")
_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_MC = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
_DC = 'xmlns:dc="http://purl.org/dc/elements/1.1/"'


def package(path: Path, parts: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return path


def parse(path: Path, settings: ReadSettings = SETTINGS) -> tuple[str, dict[str, str]]:
    for record in read(path, path.suffix[1:], settings):
        raw = record.parse()
        return "".join(raw.blocks), raw.meta
    raise AssertionError("no record")


def word(path: Path, body: str, start: str = "", **parts: str) -> Path:
    document = f"{start}<w:document {_W} {_MC}><w:body>{body}</w:body></w:document>"
    return package(path, {"word/document.xml": document, **parts})


def p(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


ITEM = '<w:numPr><w:numId w:val="1"/></w:numPr>'


def test_word_in_reading_order(tmp_path: Path, chinese: str) -> None:
    cells = "".join(f"<w:tc>{p(text)}</w:tc>" for text in ("名称", "Price", ""))
    row = f"<w:tbl><w:tr>{cells}</w:tr><w:tr><w:tc>{p('rope')}{p('long')}</w:tc><w:tc>{p('3')}</w:tc></w:tr></w:tbl>"
    choice, fallback = f"<mc:Choice>{p('box')}</mc:Choice>", f"<mc:Fallback>{p('box')}</mc:Fallback>"
    body = (
        p("A heading", '<w:pStyle w:val="Heading1"/>')
        + f"<w:sdt><w:sdtContent>{p(chinese)}</w:sdtContent></w:sdt>"
        + p("one", ITEM)
        + p("two", ITEM)
        + p("")
        + row
        + '<w:p><w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:br/></w:r>'
        + "<w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>"
        + f"<mc:AlternateContent>{choice}{fallback}</mc:AlternateContent>"
    )
    core = f"<core {_DC}><dc:title> The \n title </dc:title></core>"
    text, meta = parse(word(tmp_path / "a.docx", body, **{"docProps/core.xml": core}))
    expected = ["A heading", chinese, "- one\n- two", "名称 | Price |\nrope long | 3", "a\tb\nnew", "box"]
    assert text == "\n\n".join(expected)
    assert meta == {"title": "The title"}


def book(path: Path, *chapters: str, refs: str = "", **parts: str) -> Path:
    items = "".join(f'<item id="c{n}" href="text/c%20{n}.xhtml"/>' for n in range(len(chapters)))
    refs = refs or "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    nav = '<item id="nav" href="nav.xhtml" properties="nav"/>'
    head = f"<metadata {_DC}><dc:title>Book</dc:title></metadata><manifest>{nav}{items}</manifest>"
    container = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
    fixed = {"META-INF/container.xml": container, "OPS/book.opf": f"<package>{head}<spine>{refs}</spine></package>"}
    return package(path, fixed | {f"OPS/text/c {n}.xhtml": chapter for n, chapter in enumerate(chapters)} | parts)


def test_epub_in_the_order_of_its_spine(tmp_path: Path, chinese: str) -> None:
    first = (
        f"<?xml version='1.0' encoding='utf-8'?><html><head><title>x</title></head><body><p>{chinese}</p></body></html>"
    )
    second = (
        "<html><body><h1>Two</h1><ul><li>a<ul><li>b</li></ul></li><li>c</li></ul><pre>x:\n    y</pre></body></html>"
    )
    refs = (
        '<itemref idref="nav"/><itemref idref="c1"/><itemref idref="c0"/><itemref idref="c1"/><itemref idref="lost"/>'
    )
    text, meta = parse(book(tmp_path / "a.epub", first, second, refs=refs))
    assert text.strip() == f"Two\n\n- a\n  - b\n- c\n\nx:\n    y\n\n{chinese}"
    assert meta == {"title": "Book"}


ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "ha" * 100}">' for n in range(9))
EXTERNAL = '<!ENTITY x SYSTEM "file:///etc/passwd"><!ENTITY % y SYSTEM "http://127.0.0.1:9/y.dtd"> %y;'


@pytest.mark.parametrize("entities", [ENTITIES, EXTERNAL], ids=["laughs", "external"])
def test_entities_stay_closed(tmp_path: Path, entities: str) -> None:
    doctype = f"<!DOCTYPE w [{entities}]>"
    try:
        text, _ = parse(word(tmp_path / "a.docx", p("good &e8; &x;"), doctype))
    except ReadError as error:
        assert "is missing or not XML" in str(error)  # noqa: PT017 -- either will do
        return
    assert text.strip() == "good"


def test_a_deep_document_is_refused(tmp_path: Path) -> None:
    body = "<w:sdt>" * 10_000 + p("deep") + "</w:sdt>" * 10_000
    with pytest.raises(ReadError, match=r"damaged file: word/document.xml is missing or not XML"):
        parse(word(tmp_path / "a.docx", body))


def test_parts_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"damaged file: word/document.xml is missing"):
        parse(package(tmp_path / "a.docx", {"a.txt": ""}))
    with pytest.raises(ReadError, match=r"damaged file: META-INF/container.xml is missing"):
        parse(package(tmp_path / "a.epub", {"a.txt": ""}))
    text, _ = parse(book(tmp_path / "b.epub", "<p>only</p>", "", refs='<itemref idref="c1"/><itemref idref="c0"/>'))
    assert text.strip() == "only"


def test_locked_packages(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500))
    rights = {"META-INF/encryption.xml": '<x Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/>'}
    for path in (tmp_path / "a.docx", book(tmp_path / "a.epub", "<p>x</p>", **rights)):
        with pytest.raises(ReadError, match="encrypted file"):
            parse(path)


def test_any_damage_is_an_error_or_text(tmp_path: Path, chinese: str) -> None:
    for name in ("a.docx", "a.epub"):
        path = tmp_path / name
        data = (book(path, f"<p>{chinese}</p>") if name == "a.epub" else word(path, p(chinese))).read_bytes()
        for place in range(0, len(data), 7):
            path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
            try:
                parse(path)
            except Exception as error:
                assert reason_of(error).startswith(("damaged", "encrypted", "unpacks", "file"))  # noqa: PT017
