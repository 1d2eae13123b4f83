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
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, get_origin

import regex

from fromzero.errors import UserError, missing_extra, nearest
from fromzero.evaluation.answers import NoScore, fold, marked, read_block, read_choice, read_number
from fromzero.evaluation.instructions import Instruction, follows
from fromzero.evaluation.judge import make_judge, mark
from fromzero.evaluation.sandbox import Limits, contained, run_program
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
    if not isinstance(kind := settings.pop("kind", None), str) or kind not in KINDS:
        raise UserError(f"there is no verifier of kind {kind!r}{nearest(str(kind), KINDS)}")
    signature = inspect.signature(KINDS[kind])
    try:
        signature.bind("answer", "task", **settings)
    except TypeError as error:
        raise UserError(f"the verifier {kind!r} does not take these settings: {error}") from None
    for name, value in settings.items():
        wanted = signature.parameters[name].annotation
        if not isinstance(value, (int, float) if wanted is float else get_origin(wanted) or wanted):
            raise UserError(f"the verifier {kind!r} does not take {value!r} as {name}")
    return partial(KINDS[kind], **settings)


def check_verifier(spec: Mapping[str, Any]) -> None:
    """Raises UserError where no answer could have a score by it. Kinds that run programs or models are not run."""
    verifier = make_verifier(spec)
    if spec["kind"] in ("tests", "gym", "judge"):
        return
    try:
        verifier("a", Task("?", "0"))
    except NoScore:
        pass
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"the verifier {spec['kind']!r} does not work with these settings ({why})") from None


def apart(verifier: Verifier, seconds: float, sealed: bool = False) -> Verifier:
    """The same in a process of its own, which is killed when time is up. Where a system can't fork, it runs here.

    sealed: it can read files and compute, and nothing else. Raises UserError where the system can't see to that.
    """

    def verify(answer: str, task: Task) -> float:
        if sealed and not contained("filter"):
            raise UserError("this verifier runs what answers say, which can't be contained here; use it on Linux")
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child needs none
            child = os.fork()
        if child == 0:
            _tell(writer, verifier, answer, task, math.ceil(seconds) if sealed else 0)
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

    return verify if sealed or hasattr(os, "fork") else verifier


def _tell(writer: int, verifier: Verifier, answer: str, task: Task, sealed: int) -> None:
    """In the child: write what comes out, and end without the parent's farewells. sealed: 0, or seconds it may take."""
    try:
        if sealed:
            _seal(writer, sealed)
        told: dict[str, Any] = {"score": float(verifier(answer, task))}
    except BaseException as error:
        told = {"why": _why(error)}
    try:
        os.write(writer, json.dumps(told).encode()[: 1 << 12])
    finally:
        os._exit(0)


def _seal(writer: int, seconds: int) -> None:
    """Leave this process, on Linux, what is written to, some more memory and time, and no other call."""
    import resource

    from fromzero.evaluation.confine import filter_calls

    os.closerange(0, writer)  # of the parent's files too: those that are open need no call to be opened
    os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    with open("/proc/self/statm") as file:  # what the parent has counts, so the limit is for what is more
        held = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for name, most in (("AS", held + Limits().memory), ("CPU", seconds), ("FSIZE", 0), ("CORE", 0)):
        kind = getattr(resource, f"RLIMIT_{name}")
        most = most if (hard := resource.getrlimit(kind)[1]) == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    filter_calls(writable=False)


def _why(error: BaseException) -> str:
    return str(error) if isinstance(error, NoScore) else f"{type(error).__name__} in the verifier"


def _number(answer: str, task: Task, tolerance: float = 0.0) -> float:
    """The number that the answer comes to, up to a share of the right one."""
    found, right = read_number(answer), read_number(task.answer)
    if right is None:
        raise UserError(f"task {task.id}: {task.answer!r} is no number; give it another verifier")
    return float(found is not None and found.equals(right, tolerance))


def _choice(answer: str, task: Task, choices: Sequence[str] = ()) -> float:
    """The letter or the text of one of several choices."""
    right = chr(ord("A") + list(choices).index(task.answer)) if task.answer in choices else task.answer
    return float(read_choice(answer, choices) == right.upper())


def _text(answer: str, task: Task) -> float:
    """The right text, but for blanks, case and full-width forms; in the marked part if there is one."""
    said, right = (fold(t).casefold().rstrip(". \n").split() for t in (marked(answer) or answer, task.answer))
    return float(said == right)


def _short(answer: str, task: Task, words: int = 40) -> float:
    """At most so many words; an ideograph is one."""
    return float(len(re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", answer)) <= words)


def _regex(answer: str, task: Task, pattern: str, seconds: float = 1.0) -> float:
    """Whether the pattern is found; one that takes too long gives no score."""
    try:
        return float(regex.search(pattern, answer, timeout=seconds) is not None)
    except regex.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}") from None
    except TimeoutError:
        raise NoScore("too slow") from None


def _schema(answer: str, task: Task, schema: Mapping[str, Any], seconds: float = 2.0) -> float:
    """Whether the answer, or the block of code in it, is JSON that follows a JSON schema."""
    try:
        import jsonschema
        from referencing import Registry
    except ImportError:
        raise missing_extra("jsonschema", "rl") from None
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        value = json.loads(read_block(answer))
    except jsonschema.SchemaError as error:
        raise UserError(f"the JSON schema is not valid: {error.message}") from None
    except (ValueError, RecursionError):
        return 0.0
    checker = jsonschema.Draft202012Validator(schema, registry=Registry())  # a registry that fetches nothing
    return apart(lambda *_: checker.is_valid(value), seconds)(answer, task)  # a pattern in it may take forever


def _tests(answer: str, task: Task, tests: str, before: str = "", seconds: float = 5.0) -> float:
    """Whether the code of the answer, behind `before`, runs through the tests in the sandbox.

    Its last words must be what only the end of the tests prints: a program that leaves early has not passed. Code that
    sets out to deceive, by looking at its caller, still can.
    """
    word = secrets.token_hex(8)
    ran = run_program(f"{before}{read_block(answer)}\n{tests}\nprint({word!r})\n", Limits(seconds))
    return float(ran.how == "done" and ran.output.endswith(f"{word}\n"))


def _gym(answer: str, task: Task, name: str, entry: dict[str, Any], seconds: float = 10.0) -> float:
    """What reasoning-gym's own scorer says of the answer, or of the marked part of it."""
    try:
        from reasoning_gym import get_score_answer_fn
    except ImportError:
        raise missing_extra("reasoning-gym", "rl") from None
    score = get_score_answer_fn(name)  # some evaluate what an answer says as a formula, and so as a program
    return apart(lambda *_: score(marked(answer) or answer.strip(), entry), seconds, sealed=True)(answer, task)


def _told(answer: str, task: Task, instructions: Sequence[Instruction], loose: bool = False) -> float:
    """The share of the instructions that are followed."""
    return sum(follows(answer, one, loose) for one in instructions) / len(instructions)


def _judge(answer: str, task: Task, model: str, url: str = "") -> float:
    """The mark that a model gives."""
    return mark(make_judge(model, url), task.text, answer)


_POLITE = r"(?i)\b(?:please|thank|welcome|glad|happy to|sorry|kindly)|请|谢|您|抱歉|乐意"
KINDS: dict[str, Callable[..., float]] = {
    **{"number": _number, "choice": _choice, "text": _text, "regex": _regex, "schema": _schema, "tests": _tests},
    **{"instructions": _told, "gym": _gym, "judge": _judge, "short": _short},
    **{"polite": partial(_regex, pattern=_POLITE), "no_digits": partial(_regex, pattern=r"\A\D*\Z")},
}
"""What `make_verifier` makes, by kind: (answer, task, settings) -> score."""
