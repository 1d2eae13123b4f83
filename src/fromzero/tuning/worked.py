"""`fromzero align tasks`: tasks with their answers, to learn from before practice: as texts, and as conversations."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fromzero import artifact
from fromzero.artifact import Artifact, write_text
from fromzero.errors import UserError
from fromzero.evaluation.tasks import TasksConfig, make_tasks


@dataclass(frozen=True)
class WorkedConfig:
    """Which tasks."""

    output: Path
    """Folder for train.jsonl and validation.jsonl, lines of {"text", "messages"}."""
    tasks: TasksConfig = field(default_factory=TasksConfig)
    """What is asked; the tenth of it that practice holds out is in validation.jsonl alone."""


def make_worked(config: WorkedConfig) -> Artifact:
    """Write tasks with their answers; skipped when up to date. Raises UserError."""
    if config.tasks.split != "all":
        raise UserError("tasks.split stays as it is: both sides are written")
    source = Path(config.tasks.source)
    inputs = {"tasks": artifact.digest_source(source)} if source.is_file() else {}
    names: dict[str, Literal["train", "held_out"]] = {"train": "train", "validation": "held_out"}

    def make(folder: Path) -> Mapping[str, Any]:
        counts = {}
        for name, split in names.items():
            tasks = make_tasks(replace(config.tasks, split=split))
            pairs = [(t, [*t.messages, {"role": "assistant", "content": t.answer}]) for t in tasks]
            lines = [json.dumps({"text": t.text + t.answer, "messages": m}, ensure_ascii=False) for t, m in pairs]
            write_text(folder / f"{name}.jsonl", "".join(line + "\n" for line in lines))
            counts[name] = len(lines)
        return counts

    return artifact.build(config.output, "conversations", config, inputs, make, ignore=("output",))
