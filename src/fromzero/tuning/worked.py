"""`fromzero align tasks`: tasks with their answers, to learn from before practice: as texts, and as conversations."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from fromzero import artifact
from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.evaluation.tasks import Task, TasksConfig, make_tasks
from fromzero.files import write_text


@dataclass(frozen=True)
class WorkedConfig:
    """Which tasks."""

    output: Path
    """Folder for train.jsonl and validation.jsonl, lines of {"text", "messages"}."""
    tasks: TasksConfig = field(default_factory=TasksConfig)
    """What is asked; the tenth of it that practice holds out is in validation.jsonl alone."""
    right: float = 1.0
    """Share of the tasks that are answered right. Below 1, each is also answered wrong in three ways, one more, one
    less, and rounded down to tens where that is wrong: a model that learns it answers as it comes, and practice has
    something to change."""


def make_worked(config: WorkedConfig) -> Artifact:
    """Write tasks with their answers; skipped when up to date. Raises UserError."""
    if config.tasks.split != "all":
        raise UserError("tasks.split stays as it is: both sides are written")
    source = Path(config.tasks.source)
    inputs = {"tasks": artifact.digest_source(source)} if source.is_file() else {}
    names: dict[str, Literal["train", "held_out"]] = {"train": "train", "validation": "held_out"}

    def make(folder: Path) -> Mapping[str, Any]:
        counts, random = {}, Random(config.tasks.seed)
        for name, split in names.items():
            tasks = make_tasks(replace(config.tasks, split=split))
            lines = []
            for task in tasks:
                answers = [task.answer] if random.random() < config.right else []
                if config.right < 1:
                    answers += _wrong(task)
                for answer in answers:
                    messages = [*task.messages, {"role": "assistant", "content": answer}]
                    record = {"text": task.text + answer, "messages": messages}
                    lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            write_text(folder / f"{name}.jsonl", "".join(lines))
            counts[name] = len(lines)
        return counts

    return artifact.build(config.output, "conversations", config, inputs, make, ignore=("output",))


def _wrong(task: Task) -> list[str]:
    try:
        number = int(task.answer)
    except ValueError:
        raise UserError(
            f"task {task.id}: {task.answer!r} is no whole number; leave right at 1 for such tasks"
        ) from None
    return [str(value) for value in (number + 1, number - 1, number // 10 * 10) if value != number]
