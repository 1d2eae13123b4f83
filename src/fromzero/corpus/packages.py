"""Word (.docx) and EPUB files -> text: zip archives of XML, parsed without entities, DTDs and network."""

import io
import itertools
import operator
import posixpath
import urllib.parse
import zipfile
from collections.abc import Iterator
from typing import Any

from fromzero.corpus.document import DAMAGED, ENCRYPTED
from fromzero.corpus.html import decode_html, render, table_text
from fromzero.corpus.reading import Opened, Raw, ReadError, ReadSettings, optional, whole

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_IN_TEXT = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}


class _Package:
    """The parts of a package, each bounded, and all counted against the allowance of the file."""

    def __init__(self, file: Opened, settings: ReadSettings) -> None:
        self.limit, self.allowance = settings.limits.file_bytes, file.allowance
        data = whole(file.stream, self.limit)
        if data.startswith(_OLE):
            raise ReadError(f"{ENCRYPTED}, or a Word file from before 2007")
        self.archive = zipfile.ZipFile(io.BytesIO(data))

    def read(self, name: str) -> bytes:
        """The bytes of a part; empty when there is no such part."""
        try:
            info = self.archive.getinfo(name)
        except KeyError:
            return b""
        if info.flag_bits & 1:
            raise ReadError(ENCRYPTED)
        with self.archive.open(info) as part:
            data = whole(part, self.limit)  # type: ignore[arg-type]
        self.allowance.spend(len(data))
        return data

    def tree(self, name: str) -> Any:
        """The root element of a part. Raises ReadError when there is none."""
        etree = optional("lxml.etree")
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        try:
            return etree.fromstring(self.read(name), parser)
        except etree.XMLSyntaxError as error:
            raise ReadError(f"{DAMAGED}: {name} is missing or not XML") from error


def parse_docx(file: Opened, settings: ReadSettings) -> Raw:
    """A Word file: paragraphs, lists and tables in reading order, without headers, footnotes and comments."""
    package = _Package(file, settings)
    root = package.tree("word/document.xml")
    for fallback in list(root.iter(_FALLBACK)):  # says again what stands before it
        fallback.getparent().remove(fallback)
    title = _title(package.tree("docProps/core.xml")) if package.read("docProps/core.xml") else {}
    return Raw([_spaced(_word_blocks(root))], meta=title)


def _title(root: Any) -> dict[str, str]:
    found = next(root.iter(_TITLE), None)
    return {"title": " ".join(found.text.split())} if found is not None and found.text else {}


def _spaced(blocks: Iterator[tuple[str, bool]]) -> str:
    """Blocks with a blank line between them, but items of a list on lines that follow each other."""
    groups = itertools.groupby((block for block in blocks if block[0].strip()), key=operator.itemgetter(1))
    return "\n\n".join(("\n" if item else "\n\n").join(text for text, _ in group) for item, group in groups)


def _word_blocks(parent: Any) -> Iterator[tuple[str, bool]]:
    """Each paragraph and table, and whether it is an item of a list."""
    for child in parent:
        if child.tag == f"{_W}p":
            item = child.find(f"{_W}pPr/{_W}numPr") is not None
            text = _word_text(child).strip("\n")
            yield f"- {text}" if item and text.strip() else text, item
        elif child.tag == f"{_W}tbl":
            rows = (row.iterchildren(f"{_W}tc") for row in child.iterchildren(f"{_W}tr"))
            yield table_text([" ".join(map(_word_text, c.iter(f"{_W}p"))) for c in row] for row in rows), False
        elif isinstance(child.tag, str):
            yield from _word_blocks(child)


def _word_text(paragraph: Any) -> str:
    return "".join(
        node.text or "" if node.tag == f"{_W}t" else _IN_TEXT.get(node.tag, "")
        for node in paragraph.iter(f"{_W}t", *_IN_TEXT)
        if node.getparent().tag != f"{_W}tabs"  # a tab stop, not a tab
    )


def parse_epub(file: Opened, settings: ReadSettings) -> Raw:
    """An EPUB: its chapters in reading order, without its table of contents."""
    package = _Package(file, settings)
    if b"xmlenc#aes" in package.read("META-INF/encryption.xml"):
        raise ReadError(ENCRYPTED)
    place = package.tree("META-INF/container.xml").find(".//{*}rootfile").get("full-path", "")
    book = package.tree(place)
    items = {item.get("id"): item for item in book.iterfind("{*}manifest/{*}item")}
    spine = [items[ref.get("idref")] for ref in book.iterfind("{*}spine/{*}itemref") if ref.get("idref") in items]
    hrefs = [item.get("href", "") for item in spine if "nav" not in item.get("properties", "").split()]
    names = [posixpath.normpath(posixpath.join(posixpath.dirname(place), urllib.parse.unquote(h))) for h in hrefs]
    return Raw(_chapters(package, names), meta=_title(book))


def _chapters(package: _Package, names: list[str]) -> Iterator[str]:
    etree = optional("lxml.etree")
    parser = etree.HTMLParser(encoding="utf-8", no_network=True)
    for name in dict.fromkeys(names):  # each once: a spine may name a chapter a million times
        root = etree.fromstring(decode_html(package.read(name)).encode("utf-8", "replace") or b"<p/>", parser)
        body = None if root is None else root.find("body")
        if body is not None:
            yield render(body) + "\n\n"
