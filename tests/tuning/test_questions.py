"""Questions made by code: what they ask, what is held out, and how answers are graded."""

import json
import time
from pathlib import Path

import pytest

from fromzero.artifact import build
from fromzero.corpus import Document
from fromzero.errors import UserError
from fromzero.tuning import QuestionsConfig, make_questions
from fromzero.tuning.function_questions import function_questions
from fromzero.tuning.grading import gradable, is_right
from fromzero.tuning.text_questions import text_questions
from tests.conftest import Chain

FUNCTIONS = [
    {"name": f"make{n}", "module": f"pack.part{n % 7}", "arguments": ["self", "size", "dtype"], "summary": f"Make {n}."}
    for n in range(60)
] + [{"name": "twice", "module": f"pack.m{n}", "arguments": [], "summary": "x" * 300} for n in range(2)]


def test_a_function_gives_its_summary_module_and_arguments() -> None:
    found = {q.kind: q for q in function_questions(FUNCTIONS[:1])}
    assert found["summary"].answer == "Make 0."
    assert found["module"].answer == "make0 is in pack.part0."
    assert found["module"].expected == ("pack.part0",)
    assert found["package"].answer == "make0 is from pack."
    assert found["arguments"].answer == "pack.part0.make0 takes size and dtype."
    assert found["arguments"].expected == ("size", "dtype")
    assert all("make0" in q.question for q in found.values())


def test_a_name_in_two_modules_is_not_asked_for_and_long_summaries_are_left_out() -> None:
    assert not list(function_questions(FUNCTIONS[-2:]))


def test_text_gives_headings_and_neighbouring_sentences_in_its_language() -> None:
    english = Document(
        "a",
        "# Rivers\n\nRivers carry water to the sea. They begin in the mountains as small streams.\n",
        "",
        "",
        "en",
        {},
    )
    kinds = {q.kind: q for q in text_questions(english)}
    assert "Rivers" in kinds["heading"].question
    assert kinds["heading"].answer.startswith("Rivers carry water")
    assert kinds["next"].question.endswith("Rivers carry water to the sea.")
    assert kinds["next"].answer == "They begin in the mountains as small streams."
    chinese = Document("b", "河流把水带到大海里去。它们从山里的小溪开始流淌。然后越来越宽。", "", "", "zh", {})
    found = next(text_questions(chinese))
    assert "河流把水带到大海里去。" in found.question
    assert found.answer == "它们从山里的小溪开始流淌。"


def test_text_without_an_end_takes_linear_time() -> None:
    text = "x " * 60_000 + "\n\n#" + " " * 20_000 + "cd\n"
    started = time.process_time()
    assert not list(text_questions(Document("a", text, "", "", "en", {})))
    assert time.process_time() - started < 10  # it took minutes when it was quadratic


def make(chain: Chain, folder: Path, functions: list[dict[str, object]] | None, **changes: object) -> dict[str, object]:
    documents = None
    if functions is not None:

        def fill(output: Path) -> dict[str, int]:
            (output / "functions.json").write_text(json.dumps(functions))
            return {}

        documents = build(folder / "documents", "documents", {}, {}, fill).path
    config = QuestionsConfig(chain.corpus, folder / "questions", documents, **changes)  # type: ignore[arg-type]
    return dict(make_questions(config).summary)


@pytest.mark.parametrize("source", ["functions", "text"])
def test_what_is_held_out_has_no_twin_in_training(chain: Chain, tmp_path: Path, source: str) -> None:
    summary = make(chain, tmp_path, FUNCTIONS if source == "functions" else None, held_out=0.3)
    splits = {}
    for split in ("train", "validation"):
        lines = (tmp_path / "questions" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        splits[split] = [json.loads(line) for line in lines]
    about = [{r["about"] for r in records if r["kind"] != "itself"} for records in splits.values()]
    assert about[0]
    assert about[1]
    assert not about[0] & about[1]
    assert summary["train"] == sum(r["kind"] != "itself" for r in splits["train"])
    assert summary["validation"] == len(splits["validation"])
    assert sum(r["kind"] == "itself" for r in splits["train"]) == 50
    assert all([m["role"] for m in r["messages"]] == ["user", "assistant"] for r in splits["train"])


def test_too_few_questions_and_a_bound_on_them(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only 4 questions could be made"):
        make(chain, tmp_path, FUNCTIONS[:1], held_out=0.0)
    summary = make(chain, tmp_path / "more", FUNCTIONS, max_questions=50, held_out=0.3)
    assert summary["train"] + summary["validation"] == 50  # type: ignore[operator]


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("inv is in numpy.linalg.", ["numpy.linalg"], True),
        ("inv is in numpy.linalg_extra.", ["numpy.linalg"], False),
        ("inv is in scipy.numpy.linalg.", ["numpy.linalg"], False),
        ("It takes `a`, b and c.", ["a", "b"], True),
        ("It takes a.", ["a", "b"], False),
        ("It takes *args and **kwargs.", ["*args"], True),
        ("北京是首都。", ["北京"], True),
        ("inv来自numpy.linalg模块。", ["numpy.linalg"], True),
        ("答案是5。", ["5"], True),
        ("答案是15。", ["5"], False),
        ("", ["a"], False),
    ],
)
def test_grading(answer: str, expected: list[str], right: bool) -> None:
    assert is_right(answer, expected) is right


def test_gradable_questions_are_taken_evenly_from_each_kind() -> None:
    records = [{"kind": kind, "expected": ["x"], "n": n} for kind in "ab" for n in range(10)] + [
        {"kind": "c", "expected": []}
    ]
    chosen = gradable(records, 2)
    assert gradable(records, 0) == []
    assert [(r["kind"], r["n"]) for r in chosen] == [("a", 0), ("a", 5), ("b", 0), ("b", 5)]


def test_expected_words_may_be_numbers() -> None:
    assert is_right("It is 7.", [7])
    assert not is_right("It is 17.", [7])
