"""The quality filters: a text and the settings in; what is left of the text, and None (keep) or the reason to drop it.

The rules are in `rules`, what they ask about in `statistics`. Everything takes linear time, also for a megabyte on one
line.
"""

import re

from fromzero.corpus.document import EMPTY
from fromzero.corpus.language import identify
from fromzero.corpus.rules import LEFT, LINES, RULES, STOP_WORDS, WHOLE, Rule
from fromzero.corpus.settings import Filters
from fromzero.corpus.statistics import SEARCHED, measure

_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_PHRASES = (
    "javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"
)  # fmt: skip
_SENTENCE_ENDS = (".", "?", "!", '"', "'")


def judge(text: str, settings: Filters, language: str | None = None) -> str | None:
    """The first reason to drop the text, or None to keep it."""
    return refine(text, settings, language)[1]


def refine(text: str, settings: Filters, language: str | None = None) -> tuple[str, str | None]:
    """The text without the lines that a rule takes out, and the first reason to drop it, or None to keep it.

    language: as `language.identify` names it, which is asked where limits depend on it and none is given.
    The reason has as its detail the rule, its limit and what was found, as in 'too short: min_length 50, found 20'.
    """
    if language is None:
        depends = settings.profile == "web" or settings.languages
        language = identify(text) if depends else ""
    limits = limits_of(settings, language)
    reason = _first_broken(text, WHOLE, limits, language)
    if reason is None and any(rule.name in limits for rule in LINES):
        text = clean_lines(text, limits)
    return text, reason or _first_broken(text, LEFT, limits, language)


def limits_of(settings: Filters, language: str) -> dict[str, float]:
    """The limits of the rules that are on, for texts in a language: {'min_length': 50, ...}."""
    limits: dict[str, float | None] = {}
    for name, rule in RULES.items():
        web = (rule.chinese if language == "zh" else rule.web) if settings.profile == "web" else None
        limits[name] = getattr(settings, name, web)
    limits |= {**settings.limits, **settings.languages.get(language, {})}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _first_broken(text: str, rules: tuple[Rule, ...], limits: dict[str, float], language: str) -> str | None:
    if not text or text.isspace():
        return EMPTY
    asked = [rule for rule in rules if rule.name in limits]
    counted = [rule.statistic for rule in asked if rule.statistic not in SEARCHED]
    found = measure(text, counted, STOP_WORDS.get(language, ())) if counted else {}
    for rule in asked:
        name, limit = rule.statistic, limits[rule.name]
        if name == "stop_words" and language not in STOP_WORDS:
            continue
        value = found[name] if name in found else SEARCHED[name](text)
        if rule.broken(value, limit):
            return f"{rule.reason}: {rule.name} {limit:g}, found {value:.4g}"
    return None


def clean_lines(text: str, limits: dict[str, float]) -> str:
    """The lines that break none of the rules for lines (`rules.LINES`), without blanks around them."""
    lowered = text.lower()
    phrases = [phrase for phrase in _PHRASES if phrase in lowered]
    lines = (_clean_line(line.strip(), phrases, limits) for line in text.split("\n"))
    return "\n".join(line for line in lines if line is not None).strip()


def _clean_line(line: str, phrases: list[str], limits: dict[str, float]) -> str | None:
    words = line.split()
    longest = limits.get("max_line_word")
    if longest is not None and len(line) > longest and max(map(len, words), default=0) > longest:
        return None
    if "[" in line and len(_CITATION.findall(line)) > limits.get("max_line_citations", len(line)):
        line = _CITATION.sub("", line)
    if limits.get("min_line_end") and (not line.endswith(_SENTENCE_ENDS) or line.endswith("...")):
        return None
    if len(words) < limits.get("min_line_words", 0):
        return None
    found = sum(map(line.lower().count, phrases)) if phrases else 0
    return line if found <= limits.get("max_line_phrases", found) else None
