"""From an answer to a score: 1 right, 0 wrong, between them partly right.

A verifier is any function of (answer, task). Those of this file are made from a name and settings, as configs and files
of tasks hold them: `{"kind": "number"}`, `{"kind": "regex", "pattern": "^Yes"}`.
"""

import inspect
import json
import math
import os
import re
import secrets
import select
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import regex

from fromzero.errors import UserError, missing_extra, nearest
from fromzero.evaluation.answers import NoScore, fold, marked, read_block, read_choice, read_number
from fromzero.evaluation.instructions import Instruction, follows
from fromzero.evaluation.judge import make_judge, mark
from fromzero.evaluation.sandbox import Limits, run_program
from fromzero.evaluation.tasks import Task


class Verifier(Protocol):
    """What scores answers."""

    def __call__(self, answer: str, task: Task, /) -> float:
        """From 0 to 1. Raises NoScore where it can't tell."""


class Guarded:
    """A verifier that always comes to an end: its score, or None, counted by the reason."""

    def __init__(self, verifier: Verifier | None = None, seconds: float | None = None) -> None:
        """verifier: for all tasks; None takes each task's own. seconds: let it run apart, and end it after so many; for
        functions of strangers, not for what has a model or threads."""
        self._verifier = apart(verifier, seconds) if verifier and seconds else verifier
        self.failures: Counter[str] = Counter()
        """Answers without a score, by why."""

    def __call__(self, answer: str, task: Task) -> float | None:
        """From 0 to 1, or None. Raises UserError for a verifier that can't be made, which no answer is to blame for."""
        verifier = self._verifier or make_verifier(task.verifier)
        try:
            score = float(verifier(answer, task))
            if not 0 <= score <= 1:
                raise NoScore("not a number" if math.isnan(score) else "not from 0 to 1")
        except UserError:
            raise
        except Exception as error:
            self.failures[_why(error)] += 1
            return None
        return score


def make_verifier(spec: str | Mapping[str, Any]) -> Verifier:
    """The verifier of a kind with its settings, or of a kind alone. Raises UserError for what there is not."""
    settings = {"kind": spec} if isinstance(spec, str) else dict(spec)
    if (kind := settings.pop("kind", None)) not in KINDS:
        raise UserError(f"there is no verifier of kind {kind!r}{nearest(str(kind), KINDS)}")
    try:
        inspect.signature(KINDS[kind]).bind(**settings)
    except TypeError as error:
        raise UserError(f"the verifier {kind!r} does not take these settings: {error}") from None
    return KINDS[kind](**settings)


def apart(verifier: Verifier, seconds: float) -> Verifier:
    """The same in a process of its own, which is killed when time is up. Where a system can't fork, it runs here."""

    def verify(answer: str, task: Task) -> float:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child needs none
            child = os.fork()
        if child == 0:
            _tell(writer, verifier, answer, task)
        os.close(writer)
        try:
            ready = select.select([reader], [], [], seconds)[0]
            said = os.read(reader, 1 << 12) or b'{"why": "the verifier died"}' if ready else b'{"why": "too slow"}'
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
        if "why" in (told := json.loads(said)):
            raise NoScore(told["why"])
        return float(told["score"])

    return verify if hasattr(os, "fork") else verifier


def _tell(writer: int, verifier: Verifier, answer: str, task: Task) -> None:
    """In the child: write what comes out, and end without the parent's farewells."""
    try:
        told: dict[str, Any] = {"score": float(verifier(answer, task))}
    except BaseException as error:
        told = {"why": _why(error)}
    os.write(writer, json.dumps(told).encode()[: 1 << 12])
    os._exit(0)


def _why(error: BaseException) -> str:
    return str(error) if isinstance(error, NoScore) else f"{type(error).__name__} in the verifier"


def _number(tolerance: float = 0.0) -> Verifier:
    """The number that the answer comes to, up to a share of the right one."""

    def verify(answer: str, task: Task) -> float:
        found, right = read_number(answer), read_number(task.answer)
        if right is None:
            raise UserError(f"task {task.id}: {task.answer!r} is no number; give it another verifier")
        return float(found is not None and found.equals(right, tolerance))

    return verify


def _choice(choices: Sequence[str] = ()) -> Verifier:
    """The letter or the text of one of several choices."""

    def verify(answer: str, task: Task) -> float:
        right = chr(ord("A") + list(choices).index(task.answer)) if task.answer in choices else task.answer
        return float(read_choice(answer, choices) == right.upper())

    return verify


def _text() -> Verifier:
    """The right text, but for blanks, case and full-width forms; in the marked part if there is one."""
    words: Callable[[str], list[str]] = lambda text: fold(text).casefold().rstrip(". \n").split()  # noqa: E731
    return lambda answer, task: float(words(marked(answer) or answer) == words(task.answer))


def _regex(pattern: str, seconds: float = 1.0) -> Verifier:
    """Whether the pattern is found; one that takes too long gives no score."""
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}") from None

    def verify(answer: str, task: Task) -> float:
        try:
            return float(compiled.search(answer, timeout=seconds) is not None)
        except TimeoutError:
            raise NoScore("too slow") from None

    return verify


def _schema(schema: Mapping[str, Any], seconds: float = 2.0) -> Verifier:
    """Whether the answer, or the block of code in it, is JSON that follows a JSON schema."""
    try:
        import jsonschema
        from referencing import Registry
    except ImportError:
        raise missing_extra("jsonschema", "rl") from None
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise UserError(f"the JSON schema is not valid: {error.message}") from None
    checker = jsonschema.Draft202012Validator(schema, registry=Registry())  # a registry that fetches nothing

    def verify(answer: str, task: Task) -> float:
        try:
            return float(checker.is_valid(json.loads(read_block(answer))))
        except (ValueError, RecursionError):
            return 0.0

    return apart(verify, seconds)  # a schema may hold a pattern that takes forever


def _tests(tests: str, before: str = "", seconds: float = 5.0) -> Verifier:
    """Whether the code of the answer, behind `before`, runs through the tests in the sandbox.

    Its last words must be what only the end of the tests prints: a program that leaves early has not passed. Code that
    sets out to deceive, by looking at its caller, still can.
    """

    def verify(answer: str, task: Task) -> float:
        word = secrets.token_hex(8)
        program = f"{before}{read_block(answer)}\n{tests}\nprint({word!r})\n"
        ran = run_program(program, Limits(seconds))
        return float(ran.how == "done" and ran.output.endswith(f"{word}\n"))

    return verify


def _short(words: int = 40) -> Verifier:
    """At most so many words; an ideograph is one."""
    word = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
    return lambda answer, task: float(len(word.findall(answer)) <= words)


def _gym(name: str, entry: dict[str, Any], seconds: float = 10.0) -> Verifier:
    """What reasoning-gym's own scorer says of the answer, or of the marked part of it."""
    try:
        from reasoning_gym import get_score_answer_fn
    except ImportError:
        raise missing_extra("reasoning-gym", "rl") from None
    score = get_score_answer_fn(name)
    return apart(lambda answer, task: score(marked(answer) or answer.strip(), entry), seconds)


def _told(instructions: Sequence[Instruction], loose: bool = False) -> Verifier:
    """The share of the instructions that are followed."""
    return lambda answer, task: sum(follows(answer, one, loose) for one in instructions) / len(instructions)


def _judge(model: str, url: str = "") -> Verifier:
    """The mark that a model gives."""
    judge = make_judge(model, url)
    return lambda answer, task: mark(judge, task.text, answer)


def by_reward(reward: Callable[[Sequence[Mapping[str, Any]], str], float]) -> Verifier:
    """A reward model, (messages, answer) -> any real number, as the chance that Bradley and Terry's model gives it."""
    return lambda answer, task: 0.5 + 0.5 * math.tanh(reward(task.messages, answer) / 2)


KINDS: dict[str, Callable[..., Verifier]] = {
    "number": _number,
    "choice": _choice,
    "text": _text,
    "regex": _regex,
    "schema": _schema,
    "tests": _tests,
    "instructions": _told,
    "gym": _gym,
    "judge": _judge,
    "short": _short,
    "polite": lambda: _regex(r"(?i)\b(?:please|thank|welcome|glad|happy to|sorry|kindly)|请|谢|您|抱歉|乐意"),
    "no_digits": lambda: _regex(r"\A\D*\Z"),
}
"""What `make_verifier` makes, by kind: settings -> verifier."""
