"""Questions whose answers code can check: sums and instructions made here, files, and the tasks of reasoning-gym."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from hashlib import blake2b
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Literal

from fromzero.errors import UserError, missing_extra
from fromzero.evaluation.instructions import draw_instructions, read_ifeval
from fromzero.tokenizer import ChatTemplate, Tokenizer

_HELD_OUT = 10  # one in so many
_LONGEST = 1 << 24  # characters of a line of a file
_PATIENCE = 20_000  # questions drawn in a row that are there already, or of the other split


@dataclass(frozen=True)
class Task:
    """A question, and how an answer to it is scored."""

    prompt: str | tuple[Mapping[str, Any], ...]
    """What is asked: a text, or messages of a conversation."""
    answer: str = ""
    """The right answer, for verifiers that compare with one."""
    verifier: Mapping[str, Any] = field(default_factory=lambda: {"kind": "number"})
    """What `make_verifier` takes."""
    id: str = ""

    @property
    def checkable(self) -> bool:
        """Whether there is something to check answers by."""
        return bool(self.answer) or self.verifier["kind"] not in ("number", "choice", "text")

    @property
    def messages(self) -> list[Mapping[str, Any]]:
        """The prompt as a conversation."""
        return [{"role": "user", "content": self.prompt}] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def text(self) -> str:
        """The prompt as one text."""
        return "\n\n".join(str(message.get("content") or "") for message in self.messages)

    def ids(self, tokenizer: Tokenizer, chat: bool = True) -> tuple[int, ...]:
        """Token ids of the prompt, as a conversation with the header of the answer, or as the beginning of a text."""
        if not chat:
            return (tokenizer.end_of_text, *tokenizer.encode_ordinary(self.text))
        template = tokenizer.chat_template or ChatTemplate()
        return tuple(template.encode_chat(tokenizer, self.messages, add_generation_prompt=True)[0])


@dataclass(frozen=True)
class Arithmetic:
    """Sums, as they are made here."""

    operators: str = "+-"
    """Of + - * /; what does not come out whole is not asked."""
    digits: int = 2
    """Longest number."""
    terms: int = 2
    """Numbers in a sum: at most so many, at least 2."""
    wording: Literal["plain", "words"] = "plain"
    """`12+34=`, or a question in English or Chinese."""

    def __post_init__(self) -> None:
        if not self.operators or set(self.operators) - set("+-*/") or self.terms < 2 or not 1 <= self.digits <= 12:
            raise UserError("arithmetic needs operators of + - * /, at least 2 terms, and 1 to 12 digits")


@dataclass(frozen=True)
class TasksConfig:
    """Which questions."""

    source: str = "arithmetic"
    """`arithmetic` or `instructions`, made here; `gym:NAME`, of reasoning-gym; or a file of JSON lines: {"prompt" or
    "messages", "answer", "verifier"}, where a last message of the assistant is the answer; {"question", "answer"} as in
    GSM8K; or IFEval's {"prompt", "instruction_id_list", "kwargs"}."""
    count: int = 1000
    """At most so many."""
    split: Literal["all", "train", "held_out"] = "all"
    """A tenth of all questions is held out, chosen by the question alone: train and held_out never share one."""
    seed: int = 0
    """Of the draw, for questions that are made."""
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    """How sums are made."""
    gym: dict[str, Any] = field(default_factory=dict)
    """Settings of gym:NAME."""
    verifier: dict[str, Any] = field(default_factory=lambda: {"kind": "number"})
    """How answers are scored where a file does not say."""


def make_tasks(config: TasksConfig) -> list[Task]:
    """Different tasks, `config.count` of them or as many as there are. Raises UserError for none, and bad files."""
    found: dict[str, Task] = {}
    missed = 0
    for key, task in _source(config):
        if len(found) == config.count or missed == _PATIENCE:
            break
        held_out = blake2b(key.encode(), digest_size=8).digest()[0] * _HELD_OUT < 256
        wanted = config.split == "all" or (config.split == "held_out") == held_out
        missed = 0 if wanted and task.text not in found else missed + 1
        if missed == 0:
            found[task.text] = task
    if not found:
        raise UserError(f"{config.source} has no tasks for split {config.split} and count {config.count}")
    return list(found.values())


def _source(config: TasksConfig) -> Iterator[tuple[str, Task]]:
    """(what decides about the split, task), without end for those that are made."""
    if config.source == "arithmetic":
        return _sums(config.arithmetic, Random(config.seed))
    if config.source == "instructions":
        return _instructed(Random(config.seed))
    if config.source.startswith("gym:"):
        return _gym(config.source.removeprefix("gym:"), config)
    return _read(Path(config.source), config.verifier)


_WORDS = {"+": ("plus", "加"), "-": ("minus", "减"), "*": ("times", "乘以"), "/": ("divided by", "除以")}


def _sums(config: Arithmetic, random: Random) -> Iterator[tuple[str, Task]]:
    for number in count():
        digits = [random.randint(1, config.digits) for _ in range(random.randint(2, config.terms))]
        numbers = [random.randint(10 ** (d - 1) - (d == 1), 10**d - 1) for d in digits]
        operators = [random.choice(config.operators) for _ in numbers[1:]]
        value = _value(numbers, operators)
        if value is None or value.denominator != 1:
            continue
        pairs = list(zip(operators, numbers[1:], strict=True))
        prompt = f"{numbers[0]}{''.join(f'{o}{n}' for o, n in pairs)}="
        if config.wording == "words":
            language = random.randrange(2)
            said = " ".join([str(numbers[0]), *(f"{_WORDS[o][language]} {n}" for o, n in pairs)])
            prompt = f"{said.replace(' ', '')}等于多少？" if language else f"What is {said}?"
        # The same numbers in another order or with other operators are in the same split: 3+5 gives away 5+3.
        yield str(sorted(numbers)), Task(prompt, str(value), {"kind": "number"}, f"arithmetic-{number}")


def _value(numbers: list[int], operators: list[str]) -> Fraction | None:
    """Products and quotients first, each group from left to right; None for a division by zero."""
    terms = [Fraction(numbers[0])]
    for operator, number in zip(operators, numbers[1:], strict=True):
        if operator in "+-":
            terms.append(Fraction(number if operator == "+" else -number))
        elif operator == "/" and number == 0:
            return None
        else:
            terms[-1] *= number if operator == "*" else Fraction(1, number)
    return sum(terms, Fraction())


def _instructed(random: Random) -> Iterator[tuple[str, Task]]:
    for number in count():
        prompt, instructions = draw_instructions(random)
        verifier = {"kind": "instructions", "instructions": instructions}
        yield prompt, Task(prompt, "", verifier, f"instructions-{number}")


def _gym(name: str, config: TasksConfig) -> Iterator[tuple[str, Task]]:
    try:
        import reasoning_gym
    except ImportError:
        raise missing_extra("reasoning-gym", "rl") from None
    size = config.count * (1 if config.split == "all" else 2 * _HELD_OUT)
    try:
        entries = reasoning_gym.create_dataset(name, seed=config.seed, size=size, **config.gym)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"reasoning-gym refused {name!r} with {config.gym}: {error}") from error
    for number, entry in enumerate(entries):
        verifier = {"kind": "gym", "name": name, "entry": entry}
        yield entry["question"], Task(entry["question"], str(entry["answer"]), verifier, f"{name}-{number}")


def _read(path: Path, usual: Mapping[str, Any]) -> Iterator[tuple[str, Task]]:
    from fromzero.evaluation.verifiers import check_verifier  # which needs tasks

    checked = set[str]()
    for number, line in _lines(path):
        try:
            if len(line) == _LONGEST:
                raise ValueError(f"more than {_LONGEST:,} characters")
            task = _task_of(json.loads(line), usual, f"{path.stem}-{number}")
            if (settings := json.dumps(task.verifier, sort_keys=True, default=str)) not in checked:
                check_verifier(task.verifier)
                checked.add(settings)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = f"{type(error).__name__}: {error}"
            raise UserError(f"{path}, line {number} is no task ({why}); give a prompt, an answer, a verifier") from None
        yield task.text, task


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers, read one by one."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(iter(partial(file.readline, _LONGEST), ""), 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the tasks of {path} can't be read ({error}); name a file of JSON lines") from error


def _task_of(record: Mapping[str, Any], usual: Mapping[str, Any], name: str) -> Task:
    if "instruction_id_list" in record:
        verifier = {"kind": "instructions", "instructions": read_ifeval(record)}
        return Task(str(record["prompt"]), "", verifier, str(record.get("key", name)))
    if "question" in record:
        answer = str(record["answer"]).rpartition("####")[2].strip()
        record = {**record, "prompt": str(record["question"]), "answer": answer}
    prompt = tuple(dict(message) for message in record["messages"]) if "messages" in record else record["prompt"]
    if isinstance(prompt, tuple) and prompt and prompt[-1].get("role") == "assistant":  # a conversation to learn from
        record, prompt = {"answer": prompt[-1].get("content") or "", **record}, prompt[:-1]
    verifier = record.get("verifier", usual)
    verifier = {"kind": verifier} if isinstance(verifier, str) else dict(verifier)
    if "verifier" in record and verifier.get("kind") == "judge":
        raise ValueError("a file of tasks can't name a judge, which is sent a key; the settings can")
    task = Task(prompt, str(record.get("answer", "")), verifier, str(record.get("id", name)))
    if not (isinstance(prompt, str | tuple) and prompt and task.text):
        raise ValueError("an empty prompt")
    return task
