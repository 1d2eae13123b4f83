"""Web pages -> text: the main part of a page, and a tree of elements as paragraphs, lists, tables and code."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from fromzero.corpus.encoding import decode_declared
from fromzero.corpus.reading import Opened, Raw, ReadSettings, optional, whole

TINY_BYTES = 200
"""When the precise extractor finds less than this on a page, the fast one is asked as well."""
TINY_SHARE = 0.1
"""When both find less than this share of all that is visible on a page, everything visible is taken."""
_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)
_XML_CHARSET = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_:.-]{2,40})""")
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{1,500})</title", re.IGNORECASE)
_CANONICAL = re.compile(
    r"""<link[^>]{0,200}?rel=["']?canonical["']?[^>]{0,200}?href=["']([^"'<>]{1,2000})""", re.IGNORECASE
)
_WIDE = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
_PRE = re.compile(r"(<pre\b.*?(?:</pre|\Z))", re.IGNORECASE | re.DOTALL)
_WIDE_START = re.compile(rf"\n[ \t\r\n]{{0,99}}+(?=[{_WIDE}])")
_WIDE_CHARACTER = re.compile(rf"[{_WIDE}]")
_BLANKS = re.compile(r"[ \t\r\n\f\v]+")
_BLANK_RUN = re.compile(" {2,}")
_AROUND_BREAK = re.compile(r" *\n *")


def parse_html(file: Opened, settings: ReadSettings) -> Raw:
    """A web page: its main text, without navigation, scripts and footers."""
    return page_text(decode_html(whole(file.stream, settings.limits.file_bytes)), settings.html)


def page_text(html: str, mode: str) -> Raw:
    """The main text of a page with its title and canonical address."""
    title, canonical = _TITLE.search(html), _CANONICAL.search(html)
    meta = {"title": " ".join(title[1].split())} if title else {}
    return Raw([extract_html(html, mode)], canonical[1] if canonical else "", meta)


def decode_html(data: bytes, label: str | None = None) -> str:
    """A page's bytes as text; what its server (`label`) or itself says of its encoding counts if the bytes agree."""
    found = _XML_CHARSET.search(data[:1024]) or _META_CHARSET.search(data[:8192])
    return _without_wide_line_ends(decode_declared(data, label or (found[1].decode("ascii") if found else None)))


def _without_wide_line_ends(html: str) -> str:
    """A line end is a blank to all readers of HTML; between ideographs, which know no blanks, it has to be nothing."""
    pieces = _PRE.split(html) if _WIDE_START.search(html) else [html]  # every other one is code
    pieces[::2] = map(_joined, pieces[::2])
    return "".join(pieces)


def _joined(html: str) -> str:
    # Two expressions that begin with a plain character are ten times faster than one for both.
    *lines, last = _WIDE_START.split(html)
    cut = [line.rstrip(" \t\r") for line in lines]
    return "".join(c if _WIDE_CHARACTER.match(c[-1:]) else f"{c}\n" for c in cut) + last


def extract_html(html: str, mode: str) -> str:
    """The main text of a page, 'precise' or 'fast'; everything visible when there is no main part to be found."""
    best = _trafilatura(html) if mode == "precise" else ""
    if len(best.encode("utf-8", "replace")) < TINY_BYTES:
        tree = optional("resiliparse.parse.html").HTMLTree.parse(html)
        extract_plain_text = optional("resiliparse.extract.html2text").extract_plain_text
        best = max(best, extract_plain_text(tree, main_content=True, alt_texts=False), key=len)
        if len(best) <= TINY_SHARE * len(tree.body.text or ""):  # which holds scripts too, but is soon found
            visible = extract_plain_text(tree, main_content=False, alt_texts=False)
            best = visible if len(best) < TINY_SHARE * len(visible) else best
    return best


def _trafilatura(html: str) -> str:
    # The tree and not the text that it would make, which loses blank lines in code and mixes rows with rulers.
    found = optional("trafilatura").bare_extraction(html, favor_precision=True, include_comments=False)
    return "" if found is None or found.body is None else render(found.body)


def render(element: Any) -> str:
    """The text of an element of an lxml tree, in HTML's tags or trafilatura's: blocks with a blank line between them.

    Lists have an item a line, with a mark, nested ones indented; tables a row a line with ' | ' between cells; code
    is as it stands.
    """
    blocks: list[str] = []
    line = [_blanks(element.text)]

    def close() -> None:
        if text := _AROUND_BREAK.sub("\n", _BLANK_RUN.sub(" ", "".join(line))).strip():
            blocks.append(text)
        line.clear()

    for child in element:
        tag = child.tag if isinstance(child.tag, str) else "script"  # a comment has a function for a tag
        tag = tag.rpartition("}")[2].lower()
        if tag in ("br", "lb"):
            line.append("\n")
        elif tag in _BLOCKS or (tag == "code" and "\n" in "".join(child.itertext()).strip()):
            close()
            if text := _BLOCKS.get(tag, _code)(child):
                blocks.append(text)
        elif tag not in _SILENT:
            line.append(render(child).join(_edges(child)))
        line.append(_blanks(child.tail))
    close()
    return "\n\n".join(blocks)


def _edges(element: Any) -> tuple[str, str]:
    """The blanks at both ends of an inline element, which rendering it strips."""
    text = "".join(element.itertext())
    return " " * (text[:1].isspace()), " " * (text[-1:].isspace())


def _blanks(text: str | None) -> str:
    return _BLANKS.sub(" ", text or "")


def _code(element: Any) -> str:
    return "".join(element.itertext()).strip("\n").rstrip()


def _list(element: Any) -> str:
    lines, kind = [], element.get("rend", element.tag)
    for number, item in enumerate((i for i in element if isinstance(i.tag, str)), 1):
        mark = "" if kind == "dl" else f"{number}. " if kind == "ol" else "- "
        text = re.sub(r"\n{2,}", "\n", render(item)).replace("\n", "\n  ")
        lines += [mark + text] if text else []
    return "\n".join(lines)


def _table(element: Any) -> str:
    rows = element.iter("row", "tr", "{*}tr")
    return table_text([" ".join(cell.itertext()) for cell in row if isinstance(cell.tag, str)] for row in rows)


def table_text(rows: Iterable[list[str]]) -> str:
    """The cells of a table, a row a line; rows without text are left out."""
    lines = (" | ".join(" ".join(cell.split()) for cell in row).strip() for row in rows)
    return "\n".join(line for line in lines if line.strip("| "))


_SILENT = frozenset(("script", "style", "nav", "template", "noscript", "svg", "title", "form", "button"))
_PLAIN = """p div section article main aside header footer body quote blockquote figure figcaption
    head h1 h2 h3 h4 h5 h6 item li dt dd"""
_BLOCKS: dict[str, Callable[[Any], str]] = dict.fromkeys(_PLAIN.split(), render)
_BLOCKS |= {"pre": _code, "table": _table} | dict.fromkeys(("list", "ul", "ol", "dl"), _list)
