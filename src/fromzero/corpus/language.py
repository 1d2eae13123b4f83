"""Which language a text is in: by its script where the script tells, else by py3langid's byte n-grams."""

import functools
import re
from typing import Any

from fromzero.errors import missing_extra

UNKNOWN = "und"
LANGUAGES = ("de", "en", "es", "fr", "it", "ja", "ko", "pt", "ru", "zh")
_SAMPLE = 2000
_HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7af]")
_LETTER = re.compile(r"[^\W\d_]")
# An ideograph stands for about three letters, so a third of that share already makes half of what is said.
_SCRIPT_SHARE = 0.25
_KANA_SHARE = 0.1
_MIN_LETTERS = 10


def identify(text: str) -> str:
    """Two letters (ISO 639-1) for the text, judged from the 2,000 characters in its middle; 'und' for too few."""
    middle = max(0, (len(text) - _SAMPLE) // 2)
    sample = text[middle : middle + _SAMPLE]
    letters = len(_LETTER.findall(sample))
    han, kana, hangul = (len(script.findall(sample)) for script in (_HAN, _KANA, _HANGUL))
    if hangul > _SCRIPT_SHARE * letters:
        return "ko"
    if kana and han + kana > _SCRIPT_SHARE * letters and kana > _KANA_SHARE * (han + kana):
        return "ja"
    if han > _SCRIPT_SHARE * letters:
        return "zh"
    return str(_classifier().classify(sample)[0]) if letters >= _MIN_LETTERS else UNKNOWN


@functools.cache
def _classifier() -> Any:
    try:
        import py3langid
    except ImportError as error:
        raise missing_extra("py3langid", "corpus") from error
    py3langid.set_languages(list(LANGUAGES))
    return py3langid
