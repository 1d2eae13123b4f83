"""Instructions: an answer on each side of each, IFEval's own rules, and its four figures."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fromzero.errors import UserError
from fromzero.evaluation.instructions import _TOLD, CHECKS, accuracy, draw_instructions, follows, read_ifeval
from fromzero.evaluation.tasks import TasksConfig, make_tasks

LEAST, LESS = "at least", "less than"
ENGLISH = "there was a small house on the hill, and nobody knew who had built it."
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["cat", "dog"]}, "Cats and DOGS.", "Cats."),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": LEAST}, "cat, Cat", "cat"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": LESS}, "cat", "cat cats"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "a.b"]}, "concatenate axb", "a Cat"),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 2, "let_relation": LEAST}, "q Q", "q"),
    ("language:response_language", {"language": "zh"}, "今天的天气非常好，我们去公园散步。", ENGLISH),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": LEAST},
        "One. Two! Three",
        "One. 2.5 is two",
    ),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": LESS}, "一。二！", "一。二！三？"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo\n***", "one\n\ntwo"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***one *** two", "one *** *** two"),
    ("length_constraints:number_words", {"num_words": 3, "relation": LEAST}, "one two-three", "one two"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        'one\n\n"Weekend, yes',
        "weekend\n\none",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b]", "[a] and b]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hello.\np. s. bye", "ps bye"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P. P.S later", "P.S. later"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n  - two", "* one\n** two"),
    ("detectable_format:constrained_response", {}, "I think: My answer is maybe.", "My answer is Yes."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b c**", "*a* and * * ****"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "PART", "num_sections": 2},
        "PART 1 a PART 2 b",
        "PART 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<< >> text"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Why? "}, "why?  Because.", "Because. Why?"),
    ("startend:end_checker", {"end_phrase": "That is all."}, '"So. That is ALL."', "That is all. Bye"),
    ("startend:quotation", {}, ' "Yes, it is." ', '"'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": LEAST},
        "BIG AND small",
        "BIG and",
    ),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH.capitalize()),
    ("change_case:english_lowercase", {}, ENGLISH, ENGLISH.capitalize()),
    ("punctuation:no_comma", {}, "none; at all", "one, two"),
]


@pytest.mark.parametrize(("kind", "settings", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_each_kind(kind: str, settings: dict[str, Any], right: str, wrong: str) -> None:
    instruction = {"id": kind, **settings, "unused": None}  # IFEval's file has all settings, most of them null
    assert follows(right, instruction)
    assert not follows(wrong, instruction)
    assert not follows(" \n", instruction)


def test_all_25_kinds_have_a_case() -> None:
    assert {case[0] for case in CASES} == set(CHECKS)
    assert len(CHECKS) == 25


def test_loose() -> None:
    lower, json_format = {"id": "change_case:english_lowercase"}, {"id": "detectable_format:json_format"}
    for before, text, after in (
        ("Sure:\n", ENGLISH, ""),
        ("", ENGLISH, "\nHope it helps!"),
        ("Ok\n", ENGLISH, "\nBye"),
    ):
        assert not follows(before + text + after, lower)
        assert follows(before + text + after, lower, loose=True)
    assert not follows("**{}**", json_format)
    assert follows("**{}**", json_format, loose=True)
    assert follows("Here:\n*{}*\nDone", json_format, loose=True)
    assert not follows("Here:\nand\n{}", json_format, loose=True)


def test_the_four_figures() -> None:
    comma, quote = {"id": "punctuation:no_comma"}, {"id": "startend:quotation"}
    found = accuracy([('"yes"', [comma, quote]), ("no", [comma, quote]), ('Well:\n"a b"', [quote])])
    assert {name: (round(share, 4), n) for name, (share, _, n) in found.items()} == {
        "prompt_strict": (0.3333, 3),
        "instruction_strict": (0.6, 5),
        "prompt_loose": (0.6667, 3),
        "instruction_loose": (0.8, 5),
    }
    low, high = found["prompt_strict"][1]
    assert (round(low, 3), round(high, 3)) == (0.061, 0.792)  # Wilson's interval of 1 in 3


def test_prompts_are_drawn_with_what_they_say() -> None:
    random, seen = Random(0), set()
    for _ in range(300):
        prompt, instructions = draw_instructions(random)
        groups = [one["id"].partition(":")[0] for one in instructions]
        assert len(set(groups)) == len(groups) in (1, 2, 3)  # two of a group might contradict each other
        assert "{" not in prompt
        assert not follows("", instructions[0])
        for one in instructions:
            follows("a b", one)  # the settings are those that the check takes
            assert all(str(value) in prompt for name, value in one.items() if name != "id")
        seen |= {one["id"] for one in instructions}
    assert seen == {kind for kind, _, _ in _TOLD}


def test_a_file_of_ifeval(tmp_path: Path) -> None:
    line = {
        "key": 1001,
        "prompt": "Write about cats, in bullets.",
        "instruction_id_list": ["keywords:existence", "detectable_format:number_bullet_lists"],
        "kwargs": [{"keywords": ["cat"], "num_bullets": None}, {"num_bullets": 1, "relation": None}],
    }
    assert follows("* cat", read_ifeval(line)[1])
    (tmp_path / "ifeval.jsonl").write_text(json.dumps(line) + "\n")
    task = make_tasks(TasksConfig(str(tmp_path / "ifeval.jsonl")))[0]
    assert task.id == "1001"
    assert [one["id"] for one in task.verifier["instructions"]] == line["instruction_id_list"]


def test_what_is_not_known() -> None:
    with pytest.raises(UserError, match="did you mean 'punctuation:no_comma'"):
        follows("a", {"id": "punctuation:no_commas"})
    with pytest.raises(UserError, match="does not take"):
        follows("a", {"id": "keywords:existence", "keyword": "a"})
