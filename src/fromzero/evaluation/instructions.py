"""Instructions that code can check, as in IFEval (Zhou et al. 2023), and prompts that hold some of them.

An instruction is {"id": ..., settings}; ids and settings are those of IFEval's file, all its 25 kinds. The rules are
its too, but for sentences, which it cuts by a trained model, and languages, which are judged as in `corpus`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from fromzero.corpus.language import identify
from fromzero.errors import UserError, nearest
from fromzero.evaluation.classification import wilson

Instruction = Mapping[str, Any]


def follows(answer: str, instruction: Instruction, loose: bool = False) -> bool:
    """Whether it does what it was told; an empty answer never does.

    loose: or would without its first line, its last, its asterisks, or any of these together. Raises UserError.
    """
    settings = {name: value for name, value in instruction.items() if name != "id" and value is not None}
    if (check := CHECKS.get(instruction["id"])) is None:
        raise UserError(f"there is no instruction {instruction['id']!r}{nearest(instruction['id'], CHECKS)}")
    try:
        return any(text.strip() and check(text, **settings) for text in (_variants(answer) if loose else [answer]))
    except TypeError as error:
        raise UserError(f"the instruction {instruction['id']!r} does not take {settings}: {error}") from None


def accuracy(answers: Iterable[tuple[str, Sequence[Instruction]]]) -> dict[str, tuple[float, tuple[float, float], int]]:
    """IFEval's four figures of answers to prompts with instructions, each with its Wilson interval and its count.

    "prompt" counts an answer that follows all of them, "instruction" each; "strict" and "loose" as in `follows`.
    """
    given, found = list(answers), {}
    for name, loose in (("strict", False), ("loose", True)):
        each = [[follows(answer, one, loose) for one in told] for answer, told in given]
        for level, right in (("prompt", [all(e) for e in each]), ("instruction", [one for e in each for one in e])):
            found[f"{level}_{name}"] = (sum(right) / len(right), wilson(sum(right), len(right)), len(right))
    return found


def read_ifeval(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The instructions of a line of IFEval's file."""
    return [{"id": i, **given} for i, given in zip(record["instruction_id_list"], record["kwargs"], strict=True)]


def draw_instructions(random: Random) -> tuple[str, list[dict[str, Any]]]:
    """A prompt with one to three instructions that go together, and these."""
    chosen: dict[str, dict[str, Any]] = {}
    prompt = random.choice(_TOPICS)
    for kind, told, settings in random.sample(_TOLD, random.randint(1, 3)):
        if (group := kind.partition(":")[0]) not in chosen:
            drawn = {name: random.choice(choices) for name, choices in settings.items()}
            prompt += " " + told.format(**drawn)
            chosen[group] = {"id": kind, **drawn}
    return prompt, list(chosen.values())


def _variants(answer: str) -> list[str]:
    lines = answer.split("\n")
    cut = ["\n".join(part).strip() for part in (lines, lines[1:], lines[:-1], lines[1:-1])]
    return [answer, *cut[1:], *(text.replace("*", "") for text in (answer, *cut[1:]))]


def _compare(found: int, relation: str, wanted: int) -> bool:
    return found < wanted if relation == "less than" else found >= wanted


def _times(text: str, word: str, whole: bool = False) -> int:
    return len(re.findall(rf"\b{re.escape(word)}\b" if whole else re.escape(word), text, re.IGNORECASE))


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part.split() for part in text.split("\n\n")]
    if sum(map(bool, parts)) != num_paragraphs or not (nth_paragraph <= len(parts) and parts[nth_paragraph - 1]):
        return False
    word = re.match(r"['\"]*([^.,?!'\"]*)", parts[nth_paragraph - 1][0])
    return word is not None and word[1].lower() == first_word.lower()


def _is_json(text: str) -> bool:
    try:
        json.loads(re.sub(r"^```(?i:json)?|```$", "", text.strip()))
    except (ValueError, RecursionError):
        return False
    return True


def _highlights(text: str) -> int:
    return sum(bool(part.strip(" *")) for p in (r"\*[^\n*]*\*", r"\*\*[^\n*]*\*\*") for part in re.findall(p, text))


def _two(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    said = [part for part in parts if part]
    return all(parts[1:-1]) and len(said) == 2 and said[0] != said[1]


def _postscript(text: str, postscript_marker: str) -> bool:
    return re.search(r"\s?".join(map(re.escape, postscript_marker.lower().replace(" ", ""))), text.lower()) is not None


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda t, keywords: all(_times(t, word) for word in keywords),
    "keywords:frequency": lambda t, keyword, frequency, relation: _compare(_times(t, keyword), relation, frequency),
    "keywords:forbidden_words": lambda t, forbidden_words: not any(_times(t, word, True) for word in forbidden_words),
    "keywords:letter_frequency": lambda t, letter, let_frequency, let_relation: _compare(
        t.lower().count(letter.lower()), let_relation, let_frequency
    ),
    "language:response_language": lambda t, language: identify(t) == language,
    "length_constraints:number_sentences": lambda t, num_sentences, relation: _compare(
        len(re.findall(r"[^.!?。！？\s][^.!?。！？]*(?:[.!?]+(?=\s|$)|[。！？]+|$|[.!?]+)", t)), relation, num_sentences
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda t, num_words, relation: _compare(
        len(re.findall(r"\w+", t)), relation, num_words
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda t, num_placeholders: (
        len(re.findall(r"\[.*?\]", t)) >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda t, num_bullets: (
        len(re.findall(r"^\s*(?:\*[^*].*|-.*)$", t, re.MULTILINE)) == num_bullets
    ),
    "detectable_format:constrained_response": lambda t: any(f"My answer is {a}." in t for a in ("yes", "no", "maybe")),
    "detectable_format:number_highlighted_sections": lambda t, num_highlights: _highlights(t) >= num_highlights,
    "detectable_format:multiple_sections": lambda t, section_spliter, num_sections: (
        len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", t)) >= num_sections
    ),
    "detectable_format:json_format": _is_json,
    "detectable_format:title": lambda t: any(part.strip(" <>") for part in re.findall(r"<<[^\n]+>>", t)),
    "combination:two_responses": _two,
    "combination:repeat_prompt": lambda t, prompt_to_repeat: (
        t.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda t, end_phrase: t.strip().strip('"').lower().endswith(end_phrase.strip().lower()),
    "startend:quotation": lambda t: len(t.strip()) > 1 and t.strip()[0] == t.strip()[-1] == '"',
    "change_case:capital_word_frequency": lambda t, capital_frequency, capital_relation: _compare(
        sum(word.isupper() for word in re.findall(r"[\w-]+", t)), capital_relation, capital_frequency
    ),
    "change_case:english_capital": lambda t: t.isupper() and identify(t) in ("en", "und"),
    "change_case:english_lowercase": lambda t: t.islower() and identify(t) in ("en", "und"),
    "punctuation:no_comma": lambda t: "," not in t,
}
"""Each kind of instruction: (answer, settings) -> whether it is followed."""

_TOPICS = (
    *(f"Describe {thing}." for thing in ("a rainy day", "the sea at night", "a busy market", "an old house")),
    *(f"Explain how {thing} works." for thing in ("a bicycle", "a library", "a language model", "a kitchen scale")),
    *(f"Give advice to someone who {does}." for does in ("learns to cook", "moves to a new city", "can't sleep")),
)
_MOST = ("at least", "less than")
_TOLD: tuple[tuple[str, str, dict[str, Sequence[Any]]], ...] = (
    ("punctuation:no_comma", "Do not use any commas.", {}),
    ("change_case:english_lowercase", "Use lowercase letters only.", {}),
    ("change_case:english_capital", "Use capital letters only.", {}),
    ("startend:quotation", "Put the whole answer in double quotation marks.", {}),
    ("startend:end_checker", "End with these words: {end_phrase}", {"end_phrase": ("That is all.", "Any questions?")}),
    ("detectable_format:title", "Begin with a title in double angle brackets, such as <<title>>.", {}),
    (
        "detectable_format:number_bullet_lists",
        "Use exactly {num_bullets} points, as: * A point.",
        {"num_bullets": (2, 3, 4)},
    ),
    (
        "detectable_content:number_placeholders",
        "Use at least {num_placeholders} placeholders, such as [name].",
        {"num_placeholders": (1, 2, 3)},
    ),
    (
        "length_constraints:number_words",
        "Use {relation} {num_words} words.",
        {"relation": _MOST, "num_words": (20, 40, 80)},
    ),
    (
        "keywords:letter_frequency",
        "Use the letter {letter} {let_relation} {let_frequency} times.",
        {"letter": "aeiou", "let_relation": _MOST, "let_frequency": (3, 6, 9)},
    ),
    (
        "keywords:frequency",
        "Use the word {keyword} {relation} {frequency} times.",
        {"keyword": ("time", "small", "people"), "relation": _MOST, "frequency": (1, 2, 3)},
    ),
)
