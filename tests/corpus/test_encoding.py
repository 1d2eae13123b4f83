import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.corpus.encoding import NotTextError, codec_of, decode, decode_declared, decode_stream, detect

TEXTS = {
    "zh short": "我们在学习语言模型的基本原理。",
    "zh poem": "床前明月光，疑是地上霜。",
    "zh mixed": "Python 是一种编程语言, and it is popular.",
    "zh long": "这条河发源于城外的群山，蜿蜒九十里后汇入大海。铁路修通以前，船只沿河运送羊毛和木材。" * 30,
    "zh traditional": "我們在學習語言模型的基本原理。" * 2,
    "en short": "Plain text.",
    "en long": "The river rises in the hills above the town, and runs for ninety miles – so they say. " * 30,
}
UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("codec", UNICODE)
def test_unicode_with_and_without_byte_order_mark(name: str, codec: str) -> None:
    assert decode(TEXTS[name].encode(codec)).lstrip("\ufeff") == TEXTS[name]


@pytest.mark.parametrize("name", [n for n in TEXTS if n.startswith("zh")])
@pytest.mark.parametrize("codec", ["gb18030", "gbk"])
def test_chinese_national_standards(name: str, codec: str) -> None:
    assert decode(TEXTS[name].encode(codec)) == TEXTS[name]


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("big5", TEXTS["zh traditional"]),
        ("big5", TEXTS["zh traditional"] * 20),  # resiliparse alone says GB18030 to this one
        ("shift_jis", "これは日本語の文章です。"),
        ("shift_jis", "これは日本語の文章です。" * 50),
        ("euc-jp", "これは日本語の文章です。"),
        ("euc-kr", "한국어 문장입니다. 안녕하세요"),
        ("cp1252", "Le café était fermé à Noël."),
        ("cp1252", "Über die Brücke gehen schöne Mädchen. " * 20),
        ("cp1252", TEXTS["en long"]),
        ("cp1251", "Привет, как дела"),
    ],
)
def test_other_encodings(codec: str, text: str) -> None:
    assert decode(text.encode(codec)) == text


def test_labels_of_the_web() -> None:
    assert {codec_of(label) for label in ("gb2312", "GBK", "gb18030")} == {"gb18030"}
    assert codec_of("ISO-8859-1") == "cp1252"


def test_a_declared_charset_counts_only_if_the_bytes_agree() -> None:
    text = TEXTS["zh long"]
    assert decode_declared(text.encode("gb18030"), "gb2312") == text
    assert decode_declared(text.encode("gb18030"), "utf-8") == text
    assert decode_declared(text.encode("gb18030"), "no-such-charset") == text


def test_a_character_on_the_border_of_the_sample() -> None:
    for shift in range(4):
        text = "x" * (65_536 - shift) + "语言模型" * 100
        assert decode(text.encode("gb18030")) == text
        assert decode(text.encode("utf-8")) == text


def test_an_ascii_start_does_not_hide_what_follows() -> None:
    text = "plain " * 20_000 + "语言"
    assert detect(io.BytesIO(text.encode())) == "utf-8"


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        b"PK\x03\x04" + b"a" * 100,
        b"\x7fELF\x02\x01\x01" + b"\0" * 100,
        b"%PDF-1.4\n" + b"text " * 100,
        b"\0" * 5000,
        bytes(i * 7919 % 256 for i in range(100_000)),
    ],
    ids=["png", "zip", "elf", "pdf", "zeros", "noise"],
)
def test_binary_is_not_text(data: bytes) -> None:
    with pytest.raises(NotTextError):
        decode(data)


def test_noise_of_many_seeds_is_not_text() -> None:
    for seed in range(20):
        with pytest.raises(NotTextError):
            decode(random.Random(seed).randbytes(2000))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        text = decode(data)
    except NotTextError:
        return
    assert "".join(decode_stream(io.BytesIO(data), detect(io.BytesIO(data)))) == text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200).filter(lambda t: "\0" not in t))
def test_utf8_is_always_recognised(text: str) -> None:
    data = text.encode()
    try:
        assert decode(data) == text.removeprefix("\ufeff")
    except NotTextError:
        assert any(ord(c) < 32 for c in text)


@pytest.mark.parametrize("damage", [b"\xff", b"\xe6\xb2", "汽车".encode("gb18030") * 20], ids=["byte", "cut", "mixed"])
@pytest.mark.parametrize("codec", ["utf-8", "gb18030"])
def test_a_damaged_text_keeps_its_encoding(codec: str, damage: bytes) -> None:
    good = (TEXTS["zh long"] + "\n").encode(codec)
    for data in (good + damage + b"\n" + good, damage + good, good + damage):
        text = decode(data)
        assert text.count(TEXTS["zh long"][2:]) == data.count(good)
