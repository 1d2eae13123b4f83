"""`fromzero align answers`: a model's own answers to tasks -> pairs of a better and a worse one, told apart by code."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fromzero import artifact
from fromzero.artifact import Artifact, digest_source
from fromzero.console import progress
from fromzero.device import pick_device
from fromzero.errors import UserError
from fromzero.evaluation.tasks import Task, TasksConfig, make_tasks
from fromzero.evaluation.verifiers import Guarded, make_verifier
from fromzero.files import write_text
from fromzero.inference import SamplingConfig
from fromzero.inference.opening import check_model
from fromzero.inference.request import Output
from fromzero.interop import load_model
from fromzero.tokenizer import load_tokenizer
from fromzero.tuning.practice import make_speaker, task_ids
from fromzero.tuning.rollouts import RolloutConfig

PROMPTS_AT_ONCE = 32


@dataclass(frozen=True)
class AnswerPairsConfig:
    """What is answered, and what is better."""

    model: Path
    """The model that answers: a folder, a GGUF file, or the name of a downloaded one."""
    output: Path
    """Folder for train.jsonl and validation.jsonl, lines of {"prompt", "chosen", "rejected"}."""
    tasks: TasksConfig = field(default_factory=TasksConfig)
    """What is asked; of the tenth that is held out, a fifth of tasks.count, for validation.jsonl."""
    verifier: str | dict[str, Any] | None = None
    """What scores answers, by its name or with its settings; null: each task's own."""
    answers: int = 8
    """Answers to each task. The best is paired with the worst, the second with the second worst, and so on."""
    max_tokens: int = 64
    """Longest answer; one that comes to no end is left out."""
    temperature: float = 1.0
    """Of the draw."""

    def __post_init__(self) -> None:
        if self.tasks.split != "all" or self.answers < 2:
            raise UserError("tasks.split stays as it is, as both sides are written, and answers is at least 2")


def make_answer_pairs(config: AnswerPairsConfig) -> Artifact:
    """Write pairs; skipped when up to date. Raises UserError, also when no two answers differ in their score."""
    model, source = check_model(config.model), Path(config.tasks.source)
    inputs = {"model": digest_source(model)} | ({"tasks": digest_source(source)} if source.is_file() else {})
    ignore = ("model", "output", *(["tasks.source"] if source.is_file() else []))
    return artifact.build(
        config.output, "preferences", config, inputs, lambda f: _make(config, model, f), ignore=ignore
    )


def _make(config: AnswerPairsConfig, path: Path, folder: Path) -> Mapping[str, Any]:
    model, tokenizer = load_model(path).to(pick_device()), load_tokenizer(path)
    room, validation = model.config.context - config.max_tokens, -(-config.tasks.count // 5)
    splits = replace(config.tasks, split="train"), replace(config.tasks, split="held_out", count=validation)
    asked = [[(t, ids) for t in make_tasks(one) if len(ids := task_ids(tokenizer, t)) <= room] for one in splits]
    rolled = RolloutConfig(answers=config.answers, max_tokens=config.max_tokens)
    if not (prompts := [ids for pairs in asked for _, ids in pairs]):
        raise UserError("no task leaves room in the context for max_tokens; lower it")
    speaker = make_speaker(model, tokenizer, rolled, prompts)
    verifier = Guarded(None if config.verifier is None else make_verifier(config.verifier))
    sampling = SamplingConfig(temperature=config.temperature, top_p=1.0, max_tokens=config.max_tokens, n=config.answers)
    counts: dict[str, Any] = {}
    for name, tasks in zip(("train", "validation"), asked, strict=True):
        lines: list[str] = []
        with progress(f"answering {name}", len(tasks), "tasks") as report:
            for start in range(0, len(tasks), PROMPTS_AT_ONCE):
                part = tasks[start : start + PROMPTS_AT_ONCE]
                seeded = replace(sampling, seed=(config.tasks.seed << 32) + start * config.answers)
                for (task, _), answers in zip(part, speaker.say([ids for _, ids in part], seeded), strict=True):
                    lines += _pairs(task, answers, verifier)
                report(start + len(part))
        write_text(folder / f"{name}.jsonl", "".join(lines))
        counts |= {f"{name}_tasks": len(tasks), name: len(lines)}
    if not counts["train"]:
        raise UserError("no two answers to a task differ in their score; ask for more answers, or other tasks")
    return {**counts, "without_score": dict(verifier.failures)}


def _pairs(task: Task, answers: Sequence[Output], verifier: Guarded) -> list[str]:
    """Lines of the best answer with the worst, the second with the second worst, ... while their scores differ."""
    texts = sorted({answer.text for answer in answers if answer.reason == "stop" and answer.text.strip()})
    scored = [(score, text) for text in texts if (score := verifier(text, task)) is not None]
    scored.sort(key=lambda one: one[0])
    pairs = zip(reversed(scored), scored[: len(scored) // 2], strict=False)
    found = [{"prompt": task.messages, "chosen": c, "rejected": r} for (high, c), (low, r) in pairs if high > low]
    return [json.dumps(pair, ensure_ascii=False) + "\n" for pair in found]
