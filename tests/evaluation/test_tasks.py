"""Tasks: what is made is right and repeatable, what is held out is never learned, bad lines are named."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from fromzero.errors import UserError
from fromzero.evaluation.tasks import Arithmetic, Task, TasksConfig, make_tasks
from fromzero.evaluation.verifiers import Guarded
from fromzero.tokenizer import Tokenizer
from tests.conftest import Chain

SUMS = TasksConfig(count=300, arithmetic=Arithmetic("+-*/", digits=2, terms=4))


def test_sums_are_right() -> None:
    tasks = make_tasks(SUMS)
    assert len(tasks) == len({task.prompt for task in tasks}) == 300
    for task in tasks:
        assert isinstance(task.prompt, str)
        exact = re.sub(r"\d+", r"Fraction(\g<0>)", task.prompt.rstrip("="))
        assert eval(exact, {"Fraction": Fraction}) == int(task.answer)
        assert Guarded()(f"That is {task.answer}.", task) == 1
        assert Guarded()(f"That is {int(task.answer) + 1}.", task) == 0
    found = "".join(task.text for task in tasks)
    assert set("+-*/=0123456789") == set(found)
    assert {len(re.findall(r"\d+", task.text)) for task in tasks} == {2, 3, 4}


def test_the_draw_is_repeatable() -> None:
    assert make_tasks(SUMS) == make_tasks(SUMS)
    assert make_tasks(SUMS) != make_tasks(replace(SUMS, seed=1))


def test_wording() -> None:
    tasks = make_tasks(replace(SUMS, count=50, arithmetic=Arithmetic("+-", wording="words")))
    assert all(re.fullmatch(r"What is \d+( (plus|minus) \d+)+\?|\d+([加减]\d+)+等于多少？", t.text) for t in tasks)


@pytest.mark.parametrize("source", ["arithmetic", "instructions", "gym:chain_sum"])
def test_held_out_tasks_are_never_learned(source: str) -> None:
    config = TasksConfig(source, count=200, arithmetic=Arithmetic("+-*", digits=2))
    train = make_tasks(replace(config, split="train", seed=1))
    held_out = make_tasks(replace(config, split="held_out", count=40, seed=2))
    assert len(train) == 200
    assert len(held_out) == 40
    assert not {task.text for task in train} & {task.text for task in held_out}
    if source == "arithmetic":  # 3+5 gives away 5+3
        numbers = [{tuple(sorted(re.findall(r"\d+", t.text))) for t in tasks} for tasks in (train, held_out)]
        assert not numbers[0] & numbers[1]


def test_a_small_space_is_used_up() -> None:
    tiny = TasksConfig(count=5000, arithmetic=Arithmetic("+", digits=1))
    parts = [len(make_tasks(replace(tiny, split=split))) for split in ("all", "train", "held_out")]  # type: ignore[arg-type]
    assert parts[0] == parts[1] + parts[2] == 100


def test_files(tmp_path: Path) -> None:
    lines = [
        {"prompt": "2+2=", "answer": 4},
        {"messages": [{"role": "user", "content": "Say yes."}], "verifier": {"kind": "regex", "pattern": "yes"}},
        {"question": "How many?", "answer": "Half of 2,500 is 1,250.\n#### 1,250"},
        {"prompt": "No commas.", "key": 1000, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        {"prompt": "Colour?", "answer": "red", "verifier": "text", "id": "colour"},
        {"question": "Which capital?", "answer": "Paris", "verifier": "text", "id": "capital"},
    ]
    file = tmp_path / "some.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8-sig")
    tasks = make_tasks(TasksConfig(str(file)))
    assert [task.id for task in tasks] == ["some-1", "some-3", "some-5", "1000", "colour", "capital"]
    assert [task.verifier["kind"] for task in make_tasks(TasksConfig(str(file), verifier={"kind": "text"}))][
        2
    ] == "text"
    assert tasks[2].answer == "1,250"
    answers = ("4", "yes", "It is 1250.", "as you wish", "Red.", "Paris")
    assert [Guarded()(answer, task) for answer, task in zip(answers, tasks, strict=True)] == [1] * 6
    assert len(make_tasks(TasksConfig(str(file), count=2))) == 2


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "{}", '{"prompt": ""}', '{"prompt": 5}', '{"messages": [{}]}', "5", '{"question": "", "answer": ""}'],
)
def test_bad_lines_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text(f'{{"prompt": "fine"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"bad.jsonl, line 2 is no task"):
        make_tasks(TasksConfig(str(tmp_path / "bad.jsonl")))


@pytest.mark.parametrize(
    "verifier",
    [
        {"kind": ["number"]},
        {"kind": "regex", "pattern": 5},
        {"kind": "regex", "pattern": "("},
        {"kind": "short", "words": "x"},
        {"kind": "instructions", "instructions": [{}]},
        {"kind": "instructions", "instructions": []},
        {"kind": "tests", "tests": None},
    ],
)
def test_settings_that_score_no_answer_are_named(tmp_path: Path, verifier: object) -> None:
    lines = [{"prompt": "fine"}, {"prompt": "?", "verifier": verifier}]
    (tmp_path / "bad.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=r"bad.jsonl, line 2"):
        make_tasks(TasksConfig(str(tmp_path / "bad.jsonl")))


def test_no_more_of_a_file_is_read_than_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "some.jsonl"
    file.write_bytes(b'{"prompt": "1"}\n{"prompt": "2"}\n' + b'{"prompt": "3"}\n' * 100_000 + b"\xff")
    assert len(make_tasks(TasksConfig(str(file), count=2))) == 2
    monkeypatch.setattr("fromzero.evaluation.tasks._LONGEST", 10)
    with pytest.raises(UserError, match=r"line 1 .*more than 10 characters"):
        make_tasks(TasksConfig(str(file)))


def test_messages_without_content() -> None:
    call = {"role": "assistant", "tool_calls": []}
    assert Task(({"role": "user", "content": "How?"}, call, {"role": "tool", "content": None})).text == "How?\n\n\n\n"


def test_a_file_may_not_say_where_a_key_is_sent(tmp_path: Path) -> None:
    file, judge = tmp_path / "some.jsonl", {"kind": "judge", "model": "any", "url": "http://127.0.0.1:1"}
    file.write_text(json.dumps({"prompt": "?", "verifier": judge}))
    with pytest.raises(UserError, match=r"line 1 .*can't name a judge"):
        make_tasks(TasksConfig(str(file)))
    file.write_text(json.dumps({"prompt": "?"}))
    assert make_tasks(TasksConfig(str(file), verifier=judge))[0].verifier == judge


def test_what_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        make_tasks(TasksConfig("arithmetics"))
    with pytest.raises(UserError, match="refused 'chain_sums'"):
        make_tasks(TasksConfig("gym:chain_sums"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="has no tasks"):
        make_tasks(TasksConfig(str(tmp_path / "empty.jsonl")))
    with pytest.raises(UserError, match="operators"):
        Arithmetic("^")


def test_a_gym_scores_its_own() -> None:
    tasks = make_tasks(TasksConfig("gym:chain_sum", count=3, gym={"min_digits": 3, "max_digits": 3}))
    guarded = Guarded()
    assert [guarded(f"So: <answer>{task.answer}</answer>", task) for task in tasks] == [1, 1, 1]
    assert guarded("<answer>x</answer>", tasks[0]) < 1  # type: ignore[operator]
    assert not guarded.failures


def test_ids_of_prompts(chain: Chain) -> None:
    tokenizer: Tokenizer = chain.tokenizer
    assert Task("ab").ids(tokenizer, chat=False) == (tokenizer.end_of_text, *tokenizer.encode_ordinary("ab"))
    asked = Task(({"role": "system", "content": "Be brief."}, {"role": "user", "content": "ab"}))
    text = tokenizer.decode(asked.ids(tokenizer))
    assert "Be brief." in text
    assert text.rstrip().endswith("assistant")
