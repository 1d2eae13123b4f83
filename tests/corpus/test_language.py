"""Languages on texts of a paragraph and of a few words; both ways to write Chinese."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.corpus.language import LANGUAGES, UNKNOWN, chinese_script, identify, identify_among
from fromzero.errors import UserError

LONG = {
    "en": "The river rises in the hills above the town and runs for ninety miles before it meets the sea.",
    "de": "Der Fluss entspringt in den Hügeln über der Stadt und fließt neunzig Meilen, bevor er das Meer erreicht.",
    "fr": "La rivière prend sa source dans les collines et coule pendant des lieues avant de se jeter dans la mer.",
    "es": "El río nace en las colinas por encima del pueblo y corre noventa millas antes de llegar al mar.",
    "it": "Il fiume nasce sulle colline sopra la città e scorre per novanta miglia prima di incontrare il mare.",
    "pt": "O rio nasce nas colinas acima da cidade e corre noventa milhas antes de chegar ao mar, não muito longe.",
    "ru": "Река берёт начало в холмах над городом и течёт девяносто миль, прежде чем впасть в море.",
    "zh": "这条河发源于城外的群山，蜿蜒九十里后汇入大海。铁路修通以前，船只沿河运送羊毛和木材。",
    "ja": "この川は町の上の丘に源を発し、海に注ぐまで九十マイルを流れる。鉄道が通るまでは船が羊毛を運んだ。",
    "ar": "ينبع النهر من التلال فوق المدينة ويجري تسعين ميلا قبل أن يصل إلى البحر.",
    "el": "Ο ποταμός πηγάζει από τους λόφους πάνω από την πόλη και κυλά ενενήντα μίλια μέχρι τη θάλασσα.",
    "pl": "Rzeka wypływa ze wzgórz nad miastem i płynie przez dziewięćdziesiąt mil, zanim dotrze do morza.",
    "vi": "Con sông bắt nguồn từ những ngọn đồi phía trên thị trấn và chảy chín mươi dặm trước khi ra biển.",
    "ko": "이 강은 마을 위의 언덕에서 시작하여 바다에 이르기까지 구십 마일을 흐른다.",
}
SHORT = {
    "en": "where is the station",
    "de": "wo ist bitte der Bahnhof",
    "fr": "où est la gare s'il vous plaît",
    "ru": "где находится вокзал",
    "zh": "火车站在哪里",
    "ja": "駅はどこですか",
    "ko": "역이 어디에 있나요",
}


@pytest.mark.parametrize(("language", "text"), [*LONG.items(), *SHORT.items()])
def test_short_and_long(language: str, text: str) -> None:
    found = identify_among(text)
    assert (found.language, identify(text)) == (language, language)
    assert 0.5 < found.confidence <= 1


def test_any_language_on_request() -> None:
    polish = "Rzeka wypływa ze wzgórz nad miastem i płynie przez dziewięćdziesiąt mil, zanim dotrze do morza."
    assert identify_among(polish, None).language == "pl"
    assert identify_among(polish, ("pl", "cs")).confidence > 0.9
    assert identify_among(polish, ("de", "en")).language in ("de", "en")
    assert identify_among(LONG["zh"], None).language == "zh"
    assert identify_among(LONG["ja"], ("de", "zh")).language != "ja"
    with pytest.raises(UserError, match=r"languages: .*xq.*; known are ace, af"):
        identify_among(polish, ("pl", "xq"))


def test_mixed_text_is_less_sure() -> None:
    mixed = identify_among(LONG["zh"] + LONG["en"])
    assert (mixed.language, mixed.script) == ("zh", "Hans")
    assert 0.5 < mixed.confidence < identify_among(LONG["zh"]).confidence == 1


@pytest.mark.parametrize("text", ["", " \n", "1234 5678 !!", "abc", "42 km"])
def test_too_little_to_tell(text: str) -> None:
    assert identify_among(text).language == identify(text) == UNKNOWN
    assert identify_among(text).confidence == 0


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("欲穷千里目，更上一层楼", "Hans"),
        ("欲窮千里目，更上一層樓", "Hant"),
        ("床前明月光", ""),
        ("他說：「這本書」里面", "Hant"),
        ("", ""),
    ],
)
def test_how_chinese_is_written(text: str, script: str) -> None:
    assert chinese_script(text) == script
    assert len(text) < 10 or identify_among(text).script == script


@given(st.text(max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    found = identify_among(text)
    assert found.language in {*LANGUAGES, UNKNOWN}
    assert 0 <= found.confidence <= 1
    assert found.script == "" or found.language == "zh"


def test_only_the_middle_is_looked_at() -> None:
    parts = itertools.repeat(LONG["de"], 40)
    assert identify(LONG["ru"] * 3 + "".join(parts) + LONG["ru"] * 3) == "de"
