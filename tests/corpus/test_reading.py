"""Each format, read in this process; what children do with the results is in test_pool."""

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fromzero.corpus.formats import read
from fromzero.corpus.html import decode_html, extract_html
from fromzero.corpus.language import identify
from fromzero.corpus.reading import Raw, ReadError, ReadSettings, reason_of
from fromzero.corpus.settings import Limits

SETTINGS = ReadSettings(Limits(), "precise", "text")


def texts(path: Path, kind: str, settings: ReadSettings = SETTINGS) -> list[str]:
    return [d if isinstance(d, str) else "".join(d.blocks) for d in documents(path, kind, settings)]


def documents(path: Path, kind: str, settings: ReadSettings = SETTINGS) -> list[Raw | str]:
    """All documents of a file; the reason for those that can't be read."""
    found: list[Raw | str] = []
    for record in read(path, kind, settings):
        try:
            raw = record.parse()
            found.append(dataclasses.replace(raw, blocks=list(raw.blocks)))
        except Exception as error:
            found.append(reason_of(error))
    return found


def test_text_is_the_whole_file(tmp_path: Path, chinese: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((chinese * 3 + "\r\n").encode("gb18030"))
    assert texts(path, "text") == [chinese * 3 + "\r\n"]


@pytest.mark.parametrize("start", ['---\ntitle: "A day"\ntags: [x]\n---\n', "---\r\ntitle: A day\r\n---\r\n"])
def test_markdown_loses_its_front_matter(tmp_path: Path, start: str) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(f"{start}# Head\n\n---\n\nBody\n".encode())
    (document,) = documents(path, "markdown")
    assert isinstance(document, Raw)
    assert "".join(document.blocks).replace("\r", "") == "# Head\n\n---\n\nBody\n"
    assert document.meta == {"title": "A day"}


def test_markdown_that_only_starts_with_a_rule_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("---\n\nNo front matter, and no second rule.\n")
    assert texts(path, "markdown") == ["---\n\nNo front matter, and no second rule.\n"]


@pytest.mark.parametrize("mode", ["precise", "fast"])
@pytest.mark.parametrize("label", ["utf-8", "gb2312", "gbk", "big5", "utf-16"])
def test_pages_in_chinese_encodings(mode: str, label: str, page: Callable[[str, str], str], chinese: str) -> None:
    body = "這條河發源於城外的群山，蜿蜒九十里後匯入大海。" * 6 if label == "big5" else chinese * 4
    html = page(label, body).replace("标题", "標題") if label == "big5" else page(label, body)
    text = extract_html(decode_html(html.encode("gb18030" if label.startswith("gb") else label)), mode)
    assert body in text
    assert "secret" not in text
    assert "Home" not in text


def test_a_page_in_english(page: Callable[[str, str], str], english: str, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(
        page("utf-8", english * 3).replace("<title>", '<link rel="canonical" href="https://a.org/x"><title>')
    )
    (document,) = documents(path, "html")
    assert isinstance(document, Raw)
    assert english.strip() in "".join(document.blocks)
    assert (document.url, document.meta["title"]) == ("https://a.org/x", "标题 Title")


def test_a_tiny_page_is_not_lost() -> None:
    assert extract_html("<html><body><div>Back at noon.</div></body></html>", "precise").strip() == "Back at noon."
    assert extract_html("", "precise") == extract_html("<html></html>", "fast") == ""


def test_pdf(tmp_path: Path, pdf: bytes) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf)
    (text,) = texts(path, "pdf")
    assert "lighthouse keeper wrote down the weather" in text
    assert "eleven books of paper" in text


@pytest.mark.parametrize("damage", [b"", b"%PDF-1.4\n%%EOF", b"%PDF-1.7\n" + b"\xff" * 5000, b"not a PDF at all"])
def test_corrupt_pdf(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(damage)
    (reason,) = texts(path, "pdf")
    assert reason.startswith("damaged file: ")


def test_a_file_that_is_too_large_to_parse_whole(tmp_path: Path, pdf: bytes) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf)
    settings = ReadSettings(Limits(file_bytes=500), "precise", "text")
    assert texts(path, "pdf", settings) == ["file too large: more than 500 bytes"]


def test_json_lines(tmp_path: Path, chinese: str) -> None:
    lines = [
        json.dumps({"text": chinese, "id": 7, "url": "https://a.org", "title": "河"}, ensure_ascii=False),
        "",
        json.dumps({"content": "under the other key"}),
        "{broken",
        "[1, 2]",
        json.dumps({"text": None}),
        "[" * 100_000,
        '{"text": ' + "1" * 5000 + "}",
        '{"text": "lone \\ud800 surrogate"}',
        json.dumps({"text": "x" * 3000}),
        json.dumps({"text": "the last line, without a newline"}),
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = documents(path, "jsonl", ReadSettings(Limits(document_bytes=110_000), "precise", "text"))
    first = found[0]
    assert isinstance(first, Raw)
    assert (first.url, first.meta) == ("https://a.org", {"id": "7", "title": "河"})
    reasons = [d for d in found if isinstance(d, str)]
    assert [r.partition(" is")[0].partition(" has")[0] for r in reasons] == [
        f"record could not be read: line {n}" for n in (4, 5, 6, 7, 8)
    ]
    assert len(found) == 10


def test_a_json_line_that_is_too_long_costs_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x" * 5000}) + "\n" + json.dumps({"text": "next"}) + "\n")
    settings = ReadSettings(Limits(document_bytes=1000), "precise", "text")
    assert texts(path, "jsonl", settings) == ["document too large: line 1", "next"]


def test_json_lines_in_gb18030_with_another_key(tmp_path: Path, chinese: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps({"body": chinese}, ensure_ascii=False).encode("gb18030") + b"\n")
    assert texts(path, "jsonl", ReadSettings(Limits(), "precise", "body")) == [chinese]


def test_parquet(tmp_path: Path, english: str) -> None:
    path = tmp_path / "a.parquet"
    rows = {"text": [english, None, "third"], "url": ["https://a.org", None, None], "score": [1.0, 2.0, 3.0]}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    assert texts(path, "parquet") == [english, "record could not be read: row 2 has no text under 'text'", "third"]


def test_parquet_without_the_column_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"words": ["a"]}), path)
    with pytest.raises(ReadError, match="no column 'text'"):
        texts(path, "parquet")
    path.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    with pytest.raises(ReadError, match="damaged file"):
        texts(path, "parquet")


def test_binary_under_a_text_name(tmp_path: Path, pdf: bytes) -> None:
    path = tmp_path / "a.txt"
    for data in (pdf, b"\x89PNG\r\n\x1a\n" + b"\0" * 99, b"\0" * 3000):
        path.write_bytes(data)
        (reason,) = texts(path, "text")
        assert reason.startswith("binary file, not text: ")


def test_languages(english: str, chinese: str) -> None:
    assert identify(english) == "en"
    assert identify(chinese) == "zh"
    assert identify("使用 `numpy.sort` 对数组排序，参数 axis 指定沿哪个轴。") == "zh"
    assert identify("これは日本語の文章です。名前はまだ無い。") == "ja"
    assert identify("한국어 문장입니다. 안녕하세요") == "ko"
    assert identify("12 + 34") == "und"


def test_json_files_hold_an_object_or_a_list_of_them(tmp_path: Path) -> None:
    poems = [
        {"author": "李白", "title": "静夜思", "paragraphs": ["床前明月光，", "疑是地上霜。"]},
        {"title": "empty"},
        7,
    ]
    file = tmp_path / "poems.json"
    file.write_bytes(json.dumps(poems, ensure_ascii=False).encode("gb18030"))
    settings = ReadSettings(Limits(), "fast", "paragraphs", ("title", "author"))
    first, *others = documents(file, "json", settings)
    assert isinstance(first, Raw)
    assert "".join(first.blocks) == "静夜思\n李白\n床前明月光，\n疑是地上霜。"
    assert others == [
        "record could not be read: item 2 has no text under 'paragraphs'",
        "record could not be read: item 3 is not a JSON object",
    ]
    file.write_text('{"text": "one"}')
    assert texts(file, "json") == ["one"]
    file.write_text('{"text": ')
    with pytest.raises(ReadError, match="not valid JSON"):
        texts(file, "json", settings)


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("tsv", "\t"), ("csv", ";")])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_tables_in_text(tmp_path: Path, suffix: str, mark: str, codec: str, chinese: str) -> None:
    path = tmp_path / f"a.{suffix}"
    text = f'{chinese}\n"two" {mark} lines'
    rows = [["id", "text", "url"], ["1", text, "https://a.org"], ["2"], [], ["3", "third", ""]]
    with path.open("w", encoding=codec, newline="") as file:
        csv.writer(file, delimiter=mark).writerows(rows)
    first, second, third = documents(path, "csv")
    assert isinstance(first, Raw)
    assert (first.blocks, first.url, first.meta) == ([text], "https://a.org", {"id": "1"})
    assert second == "record could not be read: row 2 has no text under 'text'"
    assert isinstance(third, Raw)
    assert third.blocks == ["third"]


def test_tables_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ReadError, match="no column 'text'"):
        texts(path, "csv")
    path.write_text("id,text\n1," + "x" * 5000 + "\n2,next\n")
    settings = ReadSettings(Limits(document_bytes=1000), "fast", "text")
    assert texts(path, "csv", settings) == ["document too large: row 1", "next"]
    path.write_text('id,text\n1,"never closed\n' + "2,next\n" * 1000)
    assert texts(path, "csv", settings)[0] == "record could not be read: row 1"
