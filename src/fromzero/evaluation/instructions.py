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
    if (kind := instruction["id"]) not in CHECKS:
        raise UserError(f"there is no instruction {kind!r}{nearest(kind, CHECKS)}")
    lines = answer.split("\n")
    texts = ["\n".join(part) for part in (lines, lines[1:], lines[:-1], lines[1:-1])]
    texts += [text.replace("*", "") for text in texts]
    try:
        return any(text.strip() and CHECKS[kind](text, **settings) for text in (texts if loose else [answer]))
    except TypeError as error:
        raise UserError(f"the instruction {kind!r} does not take {settings}: {error}") from None


def accuracy(answers: Iterable[tuple[str, Sequence[Instruction]]]) -> dict[str, tuple[float, tuple[float, float], int]]:
    """IFEval's four figures of answers to prompts with instructions, each with its Wilson interval and its count.

    "prompt" counts answers that follow all of theirs, "instruction" each of these; "strict" and "loose": see `follows`.
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


def _counted(pattern: str, number: str, relation: str = "relation", word: str = "") -> Callable[..., bool]:
    """The check that a pattern is found often enough, or not too often; "" as relation: at least.

    number, relation, word: the names of the settings that say how often, which of both, and what {} in it stands for.
    """

    def check(text: str, **settings: Any) -> bool:
        if set(settings) != {number, relation, word} - {""}:
            raise TypeError(f"it has {number} {relation} {word}".rstrip())
        found = len(re.findall(pattern.replace("{}", re.escape(str(settings.get(word, "")))), text))
        return found < settings[number] if settings.get(relation) == "less than" else found >= settings[number]

    return check


def _has(text: str, word: str, edge: str = "") -> bool:
    return re.search(edge + re.escape(word) + edge, text, re.IGNORECASE) is not None


def _paragraphs(text: str, num_paragraphs: int) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = [part.split() for part in text.split("\n\n")]
    if sum(map(bool, parts)) != num_paragraphs or nth_paragraph > len(parts) or not parts[nth_paragraph - 1]:
        return False
    return re.split(r"[.,?!'\"]", parts[nth_paragraph - 1][0].lstrip("'\""))[0].lower() == first_word.lower()


def _is_json(text: str) -> bool:
    try:
        json.loads(re.sub(r"^```(?i:json)?|```$", "", text.strip()))
    except (ValueError, RecursionError):
        return False
    return True


def _two(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    return all(parts[1:-1]) and len(said := [part for part in parts if part]) == 2 and said[0] != said[1]


def _postscript(text: str, postscript_marker: str) -> bool:
    return re.search(" ?".join(map(re.escape, postscript_marker.replace(" ", ""))), text, re.IGNORECASE) is not None


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda text, keywords: all(_has(text, word) for word in keywords),
    "keywords:forbidden_words": lambda text, forbidden_words: not any(_has(text, w, r"\b") for w in forbidden_words),
    "keywords:frequency": _counted("(?i){}", "frequency", word="keyword"),
    "keywords:letter_frequency": _counted("(?i){}", "let_frequency", "let_relation", "letter"),
    "language:response_language": lambda text, language: identify(text) == language,
    "length_constraints:number_sentences": _counted(r"\S.*?(?:[.!?](?=\s)|[。！？]|$)", "num_sentences"),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _counted(r"\w+", "num_words"),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _counted(r"\[[^\[\]\n]*\]", "num_placeholders", ""),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": lambda text, num_bullets: (
        len(re.findall(r"(?m)^[^\S\n]*(?:\*[^*]|-).*$", text)) == num_bullets
    ),
    "detectable_format:constrained_response": lambda text: (
        re.search(r"My answer is (yes|no|maybe)\.", text) is not None
    ),
    "detectable_format:number_highlighted_sections": lambda text, num_highlights: (
        sum(bool(t.strip("* ")) for star in (r"\*", r"\*\*") for t in re.findall(rf"{star}[^\n*]*{star}", text))
        >= num_highlights
    ),
    "detectable_format:multiple_sections": _counted(r"{}\s?\d+", "num_sections", "", "section_spliter"),
    "detectable_format:json_format": _is_json,
    "detectable_format:title": lambda text: any(
        line.partition("<<")[2].rpartition(">>")[0].strip("<>").strip() for line in text.split("\n")
    ),
    "combination:two_responses": _two,
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": lambda text: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
    "change_case:capital_word_frequency": _counted(
        r"(?<![\w-])(?=[\d_-]*[A-Z])[A-Z\d_-]++(?![\w-])", "capital_frequency", "capital_relation"
    ),
    "change_case:english_capital": lambda text: text.isupper() and identify(text) in ("en", "und"),
    "change_case:english_lowercase": lambda text: text.islower() and identify(text) in ("en", "und"),
    "punctuation:no_comma": lambda text: "," not in text,
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
    ("detectable_format:number_bullet_lists", "Use exactly {num_bullets} points: * A point.", {"num_bullets": (2, 3)}),
    (
        "length_constraints:number_words",
        "Use {relation} {num_words} words.",
        {"relation": _MOST, "num_words": (20, 50)},
    ),
)
