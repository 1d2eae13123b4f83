"""What each kind of verifier says of right, wrong and strange answers, and that none of them hangs or throws."""

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fromzero.errors import UserError
from fromzero.evaluation import verifiers
from fromzero.evaluation.answers import NoScore
from fromzero.evaluation.tasks import Task, TasksConfig, make_tasks
from fromzero.evaluation.verifiers import Guarded, Verifier, apart, make_verifier

SCHEMA = {"type": "object", "required": ["age"], "properties": {"age": {"type": "integer", "minimum": 0}}}
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
CASES: list[tuple[str | dict[str, Any], str, str, float]] = [
    ("number", "It is １，２３４。", "1234", 1),
    ("number", "It is 5.", "6", 0),
    ("number", "I don't know", "6", 0),
    ({"kind": "number", "tolerance": 0.01}, "0.333", "1/3", 1),
    ("choice", "选Ｂ。", "B", 1),
    ({"kind": "choice", "choices": ["red", "blue"]}, "The answer is B", "blue", 1),
    ({"kind": "choice", "choices": ["red", "blue"]}, "blue", "b", 1),
    ({"kind": "choice", "choices": ["red", "blue"]}, "red", "B", 0),
    ("text", "  New   YORK. ", "new york", 1),
    ("text", "I say <answer>Ｎew York</answer>", "New York", 1),
    ({"kind": "regex", "pattern": r"^\d+$"}, "123", "", 1),
    ({"kind": "regex", "pattern": r"^\d+$"}, "12a", "", 0),
    ({"kind": "schema", "schema": SCHEMA}, 'Here:\n```json\n{"age": 5}\n```', "", 1),
    ({"kind": "schema", "schema": SCHEMA}, '{"age": -5}', "", 0),
    ({"kind": "schema", "schema": SCHEMA}, "{" * 20000, "", 0),
    ({"kind": "schema", "schema": SCHEMA}, "[" * 100000, "", 0),
    ({"kind": "tests", "tests": TESTS}, "Sure:\n```python\ndef add(a, b):\n    return a + b\n```", "", 1),
    ({"kind": "tests", "tests": TESTS}, "def add(a, b):\n    return a - b\n", "", 0),
    ({"kind": "tests", "tests": TESTS}, "raise SystemExit(0)", "", 0),  # leaving early is not passing
    ({"kind": "tests", "tests": TESTS}, "import os\nos._exit(0)", "", 0),
    ({"kind": "tests", "tests": TESTS, "seconds": 0.5}, "while True: pass", "", 0),
    ({"kind": "tests", "tests": TESTS, "before": "def add(a, b):\n"}, "    return a + b\n", "", 1),
    ({"kind": "short", "words": 3}, "three words, 三", "", 1),
    ({"kind": "short", "words": 3}, "三个词语", "", 0),
    ("polite", "Thank you for asking.", "", 1),
    ("polite", "谢谢提问。", "", 1),
    ("polite", "No.", "", 0),
    ("no_digits", "none at\nall", "", 1),
    ("no_digits", "one\n1", "", 0),
    ("no_digits", "一１", "", 0),
    ({"kind": "instructions", "instructions": [{"id": "punctuation:no_comma"}]}, "a b", "", 1),
    (
        {"kind": "instructions", "instructions": [{"id": "punctuation:no_comma"}, {"id": "startend:quotation"}]},
        "a b",
        "",
        0.5,
    ),
]


@pytest.mark.parametrize(("spec", "answer", "right", "score"), CASES)
def test_scores(spec: str | dict[str, Any], answer: str, right: str, score: float) -> None:
    guarded = Guarded(make_verifier(spec))
    assert guarded(answer, Task("?", right)) == score
    assert not guarded.failures


def test_each_task_has_its_own_verifier() -> None:
    guarded = Guarded()
    assert guarded("5", Task("?", "5")) == 1
    assert guarded("no", Task("?", verifier={"kind": "no_digits"})) == 1


def test_patterns_that_take_forever() -> None:
    pattern, text = "^(a|aa)+$", "a" * 100 + "b"
    schema = {"type": "string", "pattern": pattern}
    start = time.monotonic()
    for spec, answer in (
        ({"kind": "regex", "pattern": pattern, "seconds": 0.2}, text),
        ({"kind": "schema", "schema": schema, "seconds": 0.2}, f'"{text}"'),
    ):
        guarded = Guarded(make_verifier(spec))
        assert guarded(answer, Task("?")) is None
        assert guarded.failures == {"too slow": 1}
    assert time.monotonic() - start < 5


def _throw(answer: str, task: Task) -> float:
    raise ValueError("oh")


def _undecided(answer: str, task: Task) -> float:
    raise NoScore("no verdict")


FAILING: dict[str, tuple[Verifier, str]] = {
    "throws": (_throw, "ValueError in the verifier"),
    "nan": (lambda answer, task: float("nan"), "not a number"),
    "infinite": (lambda answer, task: float("inf"), "not from 0 to 1"),
    "two": (lambda answer, task: 2, "not from 0 to 1"),
    "none": (lambda answer, task: None, "TypeError in the verifier"),  # type: ignore[dict-item,return-value]
    "undecided": (_undecided, "no verdict"),
}


@pytest.mark.parametrize(("verifier", "why"), FAILING.values(), ids=FAILING)
@pytest.mark.parametrize("seconds", [None, 5.0], ids=["here", "apart"])
def test_failures_are_counted(verifier: Verifier, why: str, seconds: float | None) -> None:
    guarded = Guarded(verifier, seconds)
    assert guarded("", Task("?")) is None
    assert guarded("", Task("?")) is None
    assert guarded.failures == {why: 2}


def _busy(answer: str, task: Task) -> float:
    while True:
        pass


def test_a_verifier_that_hangs_is_ended() -> None:
    ends: list[Verifier] = [_busy, lambda answer, task: time.sleep(60) or 1.0, lambda answer, task: os._exit(1)]
    start, before = time.monotonic(), _children()
    guarded = [Guarded(verifier, 0.3) for verifier in ends]
    assert [each("", Task("?")) for each in guarded] == [None] * 3
    assert [dict(each.failures) for each in guarded] == [{"too slow": 1}] * 2 + [{"the verifier died": 1}]
    assert time.monotonic() - start < 5
    assert _children() <= before  # nothing is left of them


def _children() -> set[str]:
    listed = subprocess.run(["ps", "-eo", "ppid,pid,comm"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()[1:]]
    return {row[1] for row in rows if row[0] == str(os.getpid()) and row[2] != "ps"}


def test_a_sealed_verifier_can_only_compute(tmp_path: Path) -> None:
    def write(answer: str, task: Task) -> float:
        (tmp_path / "there").write_text(answer)
        return 1.0

    def start(answer: str, task: Task) -> float:
        return float(subprocess.run(["true"], check=True).returncode == 0)

    for verifier in (write, start, lambda answer, task: float(bool(socket.socket()))):
        guarded = Guarded(apart(verifier, 5.0, sealed=True))
        assert guarded("", Task("?")) is None
        assert guarded.failures == {"PermissionError in the verifier": 1}
    assert not (tmp_path / "there").exists()
    hostile = f"__import__('pathlib').Path({str(tmp_path / 'there')!r}).touch()"
    guarded = Guarded()
    for task in make_tasks(TasksConfig("gym:countdown", count=2)):  # its scorer evaluates formulas
        guarded(f"<answer>{hostile}</answer>", task)
        assert guarded(f"<answer>{task.answer}</answer>", task) == 1
    assert not (tmp_path / "there").exists()


def test_a_sealed_verifier_has_no_open_file_and_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "open").open("wb", buffering=0) as file:
        cases: list[tuple[Verifier, str | None]] = [
            (lambda answer, task: float(os.write(file.fileno(), b"x")), "OSError in the verifier"),
            (lambda answer, task: float(len(bytearray(2 << 30)) > 0), "MemoryError in the verifier"),
            (lambda answer, task: float(len(bytearray(64 << 20)) > 0), None),
            (lambda answer, task: print("much " * 5000) or 1.0, None),
        ]
        for verifier, why in cases:
            guarded = Guarded(apart(verifier, 5.0, sealed=True))
            assert guarded("", Task("?")) == (None if why else 1)
            assert list(guarded.failures) == ([why] if why else [])
    assert not (tmp_path / "open").read_bytes()


def test_what_can_not_be_sealed_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifiers, "contained", lambda how: False)
    with pytest.raises(UserError, match="can't be contained"):
        Guarded(apart(lambda answer, task: 1.0, 5.0, sealed=True))("", Task("?"))
    monkeypatch.delattr(os, "fork")
    with pytest.raises(UserError, match="can't be contained"):
        Guarded(apart(lambda answer, task: 1.0, 5.0, sealed=True))("", Task("?"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nunber", "did you mean 'number'"),
        ({}, "no verifier of kind None"),
        ({"kind": ["number"]}, "no verifier of kind"),
        ({"kind": "regex", "pattern": 5}, "does not take 5 as pattern"),
        ({"kind": "short", "words": "x"}, "does not take 'x' as words"),
        ({"kind": "number", "tolerence": 1}, "tolerence"),
        ({"kind": "regex"}, "pattern"),
        ({"kind": "regex", "pattern": "("}, "no regular expression"),
        ({"kind": "schema", "schema": {"type": "strong"}}, "not valid"),
        ({"kind": "instructions", "instructions": [{"id": "punctuation:no_comas"}]}, "did you mean"),
        ({"kind": "instructions", "instructions": [{"id": "punctuation:no_comma", "x": 1}]}, "does not take"),
    ],
)
def test_bad_settings(spec: str | dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Guarded()("text", Task("?", verifier={"kind": spec} if isinstance(spec, str) else spec))


def test_a_task_whose_answer_is_no_number() -> None:
    with pytest.raises(UserError, match="task seven: 'five' is no number"):
        Guarded()("5", Task("?", "five", id="seven"))


def test_schemas_fetch_nothing() -> None:
    schema = {"$ref": "http://127.0.0.1:1/schema.json"}
    guarded = Guarded(make_verifier({"kind": "schema", "schema": schema}))
    assert guarded("5", Task("?")) is None
    assert "in the verifier" in next(iter(guarded.failures))
