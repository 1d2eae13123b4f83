"""From an answer to a score: 1 right, 0 wrong, between them partly right.

A verifier is any function of (answer, task). Those of this file are made from a name and settings, as configs and files
of tasks hold them: `{"kind": "number"}`, `{"kind": "regex", "pattern": "^Yes"}`.
"""

import inspect
import json
import math
import os
import select
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import regex

from fromzero.errors import UserError, nearest
from fromzero.evaluation.answers import fold, marked, read_choice, read_number
from fromzero.evaluation.tasks import Task


class Verifier(Protocol):
    """What scores answers."""

    def __call__(self, answer: str, task: Task) -> float:
        """From 0 to 1. Raises NoScore where it can't tell."""


class NoScore(Exception):  # noqa: N818 - an outcome, not a fault
    """There is no score; says why in a few words, by which such outcomes are counted."""


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
        except UserError:
            raise
        except NoScore as why:
            self.failures[str(why)] += 1
            return None
        except Exception as error:
            self.failures[f"{type(error).__name__} in the verifier"] += 1
            return None
        if not 0 <= score <= 1:
            self.failures["not a number" if math.isnan(score) else "not from 0 to 1"] += 1
            return None
        return score


def make_verifier(spec: str | Mapping[str, Any]) -> Verifier:
    """The verifier of a kind with its settings, or of a kind alone. Raises UserError for what there is not."""
    settings = {"kind": spec} if isinstance(spec, str) else dict(spec)
    kind = settings.pop("kind", None)
    if kind not in KINDS:
        raise UserError(f"there is no verifier of kind {kind!r}{nearest(str(kind), KINDS)}")
    try:
        inspect.signature(KINDS[kind]).bind(**settings)
    except TypeError as error:
        raise UserError(f"the verifier {kind!r} does not take these settings: {error}") from None
    return KINDS[kind](**settings)


def apart(verifier: Verifier, seconds: float) -> Verifier:
    """The same in a process of its own, which is ended when time is up. Where a system can't fork, it runs here."""

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
            told = json.loads(os.read(reader, 1 << 12) or b"{}") if ready else {"why": "too slow"}
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
        if "score" not in told:
            raise NoScore(told.get("why", "the verifier died"))
        return float(told["score"])

    return verify if hasattr(os, "fork") else verifier


def _tell(writer: int, verifier: Verifier, answer: str, task: Task) -> None:
    """In the child: write what comes out, and end without the parent's farewells."""
    try:
        told: dict[str, Any] = {"score": float(verifier(answer, task))}
    except BaseException as error:
        told = {"why": str(error) if isinstance(error, NoScore) else f"{type(error).__name__} in the verifier"}
    finally:
        os.write(writer, json.dumps(told).encode()[: 1 << 12])
        os._exit(0)


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
    """The same text as the right one, but for blanks, case and full-width forms; of the marked part if there is one."""

    def plain(text: str) -> str:
        return " ".join(fold(text).casefold().split()).rstrip(". ")

    return lambda answer, task: float(plain(marked(answer) or answer) == plain(task.answer))


def _regex(pattern: str, seconds: float = 1.0) -> Verifier:
    """Whether the pattern is found; patterns that take too long give no score."""
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


KINDS: dict[str, Callable[..., Verifier]] = {
    "number": _number,
    "choice": _choice,
    "text": _text,
    "regex": _regex,
}
"""What `make_verifier` makes."""
