"""A model's own answers as pairs: the better one has the higher score, and what is held out stays apart."""

import json
from pathlib import Path

import pytest

from fromzero.errors import UserError
from fromzero.evaluation.tasks import Task, TasksConfig
from fromzero.evaluation.verifiers import Guarded, make_verifier
from fromzero.inference.request import Output
from fromzero.tuning.answer_pairs import AnswerPairsConfig, _pairs, make_answer_pairs


def output(text: str, reason: str = "stop") -> Output:
    return Output("r0", 0, (), text, reason=reason)  # type: ignore[arg-type]


def test_the_best_goes_with_the_worst_and_what_is_equal_or_cut_off_is_left_out() -> None:
    scores = {"a": 0.2, "b": 0.9, "c": 0.5, "d": 0.5, "cut off": 1.0, "none": float("nan")}
    verifier = Guarded(lambda answer, task: scores[answer])
    answers = [output(text, "length" if text == "cut off" else "stop") for text in [*scores, "b", " "]]
    found = [json.loads(line) for line in _pairs(Task("Which?"), answers, verifier)]
    assert [(pair["chosen"], pair["rejected"]) for pair in found] == [("b", "a")]
    assert found[0]["prompt"] == [{"role": "user", "content": "Which?"}]
    assert verifier.failures == {"not a number": 1}


def test_a_models_answers_become_pairs(tiny_model: Path, conversations: Path, tmp_path: Path) -> None:
    tasks = TasksConfig(source=str(conversations / "train.jsonl"))
    config = AnswerPairsConfig(
        model=tiny_model, output=tmp_path / "pairs", tasks=tasks, verifier={"kind": "regex", "pattern": "[aeiou]$"},
        answers=6, max_tokens=24, temperature=1.2,
    )  # fmt: skip
    made = make_answer_pairs(config)
    files = {name: (made.path / f"{name}.jsonl").read_text().splitlines() for name in ("train", "validation")}
    assert made.summary["train_tasks"] + made.summary["validation_tasks"] == 60
    better = make_verifier(config.verifier or "")
    prompts = {}
    for name, lines in files.items():
        pairs = [json.loads(line) for line in lines]
        assert made.summary[name] == len(pairs)
        assert all(better(p["chosen"], Task("")) > better(p["rejected"], Task("")) for p in pairs)
        prompts[name] = {p["prompt"][-1]["content"] for p in pairs}
    assert prompts["train"]
    assert not prompts["train"] & prompts["validation"]


@pytest.mark.parametrize(("max_tokens", "message"), [(8, "no two answers"), (64, "leaves room")])
def test_what_gives_no_pairs_is_an_error(tiny_model: Path, tmp_path: Path, max_tokens: int, message: str) -> None:
    alike = {"kind": "regex", "pattern": ""}
    config = AnswerPairsConfig(tiny_model, tmp_path / "pairs", TasksConfig(count=4), alike, max_tokens=max_tokens)
    with pytest.raises(UserError, match=message):
        make_answer_pairs(config)
