"""Questions about functions, from what is known of each: its module, package and arguments, and what it does.

Answers can be graded by code: the module, the package and the arguments are either named or not.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_SUMMARY_CHARACTERS = 200
MAX_ARGUMENTS = 6


@dataclass(frozen=True)
class Question:
    """A question, its answer, what kind it is, what it is about, and the words that a right answer holds."""

    question: str
    answer: str
    kind: str
    about: str
    expected: tuple[str, ...] = ()


_WORDINGS = {
    "summary": ("What does {path} do?", "What is {path} for?", "Explain {path}."),
    "module": ("Which module has {name}?", "Where is {name} defined?", "In which module do I find {name}?"),
    "package": ("Which package is {name} from?", "What package has {name}?"),
    "arguments": ("What are the arguments of {path}?", "Which arguments does {path} take?"),
}


def function_questions(functions: Sequence[Mapping[str, Any]]) -> Iterator[Question]:
    """Up to four questions for each entry of a `functions.json`: {name, module, arguments, summary, ...}.

    The module and the package are asked for only where the name alone says which function is meant.
    """
    times = Counter(str(f["name"]) for f in functions)
    for number, function in enumerate(functions):
        name, module = str(function["name"]), str(function["module"])
        path = f"{module}.{name}"
        summary = " ".join(str(function["summary"]).split())
        words = {"path": path, "name": name}
        if len(summary) <= MAX_SUMMARY_CHARACTERS:
            yield Question(_wording("summary", number, words), summary, "summary", path)
        if times[name] == 1 and len(name) > 2:
            yield Question(_wording("module", number, words), f"{name} is in {module}.", "module", path, (module,))
            package = str(function.get("package") or module.partition(".")[0])
            yield Question(
                _wording("package", number, words), f"{name} is from {package}.", "package", path, (package,)
            )
        arguments = [str(a) for a in function["arguments"] if a not in ("self", "cls")]
        if 0 < len(arguments) <= MAX_ARGUMENTS:
            answer = f"{path} takes {_list(arguments)}."
            yield Question(_wording("arguments", number, words), answer, "arguments", path, tuple(arguments))


def _wording(kind: str, number: int, words: Mapping[str, str]) -> str:
    wordings = _WORDINGS[kind]
    return wordings[number % len(wordings)].format(**words)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
