"""Which language a text is in: by its script where the script tells, else by py3langid's byte n-grams."""

import dataclasses
import functools
import re
from typing import Any, Literal

from fromzero.errors import UserError, missing_extra

UNKNOWN = "und"
_COMMON = """ar bg bn ca cs da de el en es et fa fi fr he hi hr hu id it ja ko lt lv ms nl no pl pt ro ru sk sl sr sv sw
ta th tr uk ur vi zh"""
LANGUAGES = tuple(_COMMON.split())
"""Those with much text on the web. Rare ones make short texts in common ones less sure: py3langid knows 140."""
_SAMPLE = 1000
_HAN = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\uac00-\ud7af]")
_LETTER = re.compile(r"[^\W\d_]")
# An ideograph stands for about three letters, so a third of that share already makes half of what is said.
_SCRIPT_SHARE = 0.25
_KANA_SHARE = 0.1
_MIN_LETTERS = 10


@dataclasses.dataclass(frozen=True)
class Identified:
    """What a text seems to be written in."""

    language: str
    """Two letters (ISO 639-1), 'und' for too little text."""
    confidence: float
    """0 to 1: the probability that py3langid gives, or the share of the text that is in the script that told."""
    script: Literal["", "Hans", "Hant"] = ""
    """For Chinese: simplified, traditional, or neither more than the other."""


def identify(text: str) -> str:
    """Two letters (ISO 639-1) for the text, judged from the 1,000 characters in its middle; 'und' for too few."""
    return identify_among(text).language


def identify_among(text: str, languages: tuple[str, ...] | None = LANGUAGES) -> Identified:
    """The language with its confidence, among those given, or None for the 140 that py3langid knows.

    Few to choose from make short texts surer: give those that the documents can be in. Raises UserError for a language
    that is not known.
    """
    middle = max(0, (len(text) - _SAMPLE) // 2)
    sample = text[middle : middle + _SAMPLE]
    letters = len(_LETTER.findall(sample))
    ideographs = "" if sample.isascii() else "".join(_HAN.findall(sample))
    kana, hangul = (0 if sample.isascii() else len(script.findall(sample)) for script in (_KANA, _HANGUL))
    han = len(ideographs)

    def told_by(script: int, language: str) -> bool:
        return script > _SCRIPT_SHARE * letters and (languages is None or language in languages)

    if told_by(hangul, "ko"):
        return Identified("ko", _share(hangul, letters))
    if kana > _KANA_SHARE * (han + kana) and told_by(han + kana, "ja"):
        return Identified("ja", _share(han + kana, letters))
    if told_by(han, "zh"):
        return Identified("zh", _share(han, letters), chinese_script(ideographs))
    if letters < _MIN_LETTERS:
        return Identified(UNKNOWN, 0.0)
    language, confidence = _classifier(languages).classify(sample)
    return Identified(str(language), float(confidence))


def chinese_script(text: str) -> Literal["", "Hans", "Hant"]:
    """Simplified or traditional, by which of the two countries' old character sets has more of the ideographs.

    GB 2312 has no traditional form where there is a simplified one, and Big5 no simplified one; both have the rest.
    """
    simplified, traditional = (len(text.encode(name, "ignore")) for name in ("gb2312", "big5"))
    return "" if simplified == traditional else "Hans" if simplified > traditional else "Hant"


def _share(script: int, letters: int) -> float:
    """The share of what is said in a script, an ideograph or syllable block counting as three letters."""
    return min(1.0, 3 * script / (2 * script + letters))  # letters are fewer where Python's Unicode is older


@functools.cache
def _classifier(languages: tuple[str, ...] | None) -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise missing_extra("py3langid", "corpus") from error
    classifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    try:
        classifier.set_languages(languages)
    except ValueError as error:
        raise UserError(f"languages: {error}; known are {', '.join(sorted(classifier.labels))}") from error
    return classifier
