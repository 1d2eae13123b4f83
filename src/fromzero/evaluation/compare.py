"""`fromzero evaluate answers`: the answers of a model to tasks, scored, beside those of another one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fromzero import __version__
from fromzero.console import progress, say
from fromzero.device import DeviceName
from fromzero.errors import UserError
from fromzero.evaluation.classification import wilson
from fromzero.evaluation.instructions import accuracy
from fromzero.evaluation.judge import make_judge, prefer
from fromzero.evaluation.tasks import Task, TasksConfig, make_tasks
from fromzero.evaluation.verifiers import Guarded
from fromzero.files import digest_of, write_json
from fromzero.inference import SamplingConfig
from fromzero.inference.batch import Record, answer_all
from fromzero.inference.opening import open_engine
from fromzero.inference.request import Request

_DRAWS = 2000


@dataclass(frozen=True)
class AnswersConfig:
    """Who answers what."""

    model: Path
    """Folder or GGUF file of a model, or the name of a downloaded one."""
    output: Path
    """File for the figures and the answers, JSON."""
    tasks: TasksConfig = field(default_factory=lambda: TasksConfig(count=200, split="held_out"))
    """What is asked: of the tasks that were held out from practice, unless tasks.split says otherwise."""
    against: Path | None = None
    """Another model, to compare with."""
    judge: str = ""
    """A model that says which of two answers is better, in place of their scores."""
    judge_url: str = ""
    """Where the judge is served; '' runs it here."""
    chat: bool = True
    """Whether tasks are put as the chat template says; else the model goes on from their text."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0, seed=0))
    """How tokens are chosen: always the likeliest, by default."""
    device: DeviceName = "auto"
    """Where the models run."""

    def __post_init__(self) -> None:
        if self.sampling.n != 1 or (self.judge and not self.against):
            raise UserError("there is one answer to a task (sampling.n 1), and a judge needs --against")


def evaluate_answers(config: AnswersConfig) -> dict[str, Any]:
    """Let one model answer, or two, and write the figures with all that they depend on. Raises UserError."""
    tasks = make_tasks(config.tasks)
    one, *others = [_answered(config, path, tasks) for path in (config.model, config.against) if path]
    found = {"version": __version__, "config": config, "seed": config.sampling.seed, "models": [one, *others]}
    found["prompts_hash"] = digest_of([task.messages for task in tasks])[:16]
    found["tasks"] = [{"id": task.id, "prompt": task.text, "answer": task.answer} for task in tasks]
    for two in others:
        scores = _judged(config, tasks, one, two) if config.judge else (one["scores"], two["scores"])
        found["comparison"] = compare(*scores)
    write_json(config.output, found)
    return found


def compare(one: Sequence[float | None], two: Sequence[float | None], seed: int = 0) -> dict[str, Any]:
    """Scores of two models on the same tasks, paired; tasks without both scores are left out. Raises UserError.

    How often the first wins, ties and loses; its win rate, ties as halves, with a Wilson interval; the mean difference
    with the interval of a bootstrap of pairs; p, of McNemar's exact test: how often a coin is that one-sided.
    """
    both = np.array([(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None])
    if not len(both):
        raise UserError("there is no task for which both have a score")
    differences = both[:, 0] - both[:, 1]
    n, wins, losses = len(both), int((differences > 0).sum()), int((differences < 0).sum())
    won, decided = (n + wins - losses) / 2, wins + losses
    draws = np.random.default_rng(seed).integers(0, n, (_DRAWS, n))
    ends = np.quantile(differences[draws].mean(1), (0.025, 0.975)).tolist()
    tail = sum(math.comb(decided, number) for number in range(min(wins, losses) + 1))
    found = {"n": n, "wins": wins, "ties": n - decided, "losses": losses, "p": min(1.0, 2 * tail / 2**decided)}
    found |= {"win_rate": won / n, "win_rate_interval": wilson(won, n)}
    return found | {"difference": float(differences.mean()), "difference_interval": ends}


def _answered(config: AnswersConfig, path: Path, tasks: Sequence[Task]) -> dict[str, Any]:
    """A model's answers, their scores and the figures; an answer that could not be made has no score."""
    engine, guarded, answers, scores = open_engine(path, config.device), Guarded(), [], []

    def prepare(name: str, task: Record) -> Request:
        return Request(name, task["task"].ids(engine.tokenizer, config.chat), config.sampling, goes_on=not config.chat)

    with progress(f"answers of {path.name}", len(tasks), "tasks") as report:
        for task, made in zip(tasks, answer_all(engine, [{"task": t} for t in tasks], prepare, None), strict=True):
            guarded.failures["no answer"] += "error" in made
            answers.append("" if "error" in made else made["answers"][0]["text"])
            scores.append(None if "error" in made else guarded(answers[-1], task))
            report(len(answers))
    scored = [score for score in scores if score is not None]
    if not scored:
        raise UserError(f"no answer of {path} has a score: {dict(guarded.failures)}")
    given = zip(answers, (task.verifier.get("instructions") for task in tasks), strict=True)
    told = [(answer, instructions) for answer, instructions in given if instructions]
    template = config.chat and engine.tokenizer.chat_template
    return {
        "model": path,
        "n": len(scored),
        "score": sum(scored) / len(scored),
        "interval": wilson(sum(scored), len(scored)),  # for scores between 0 and 1 wider than it need be
        "failures": +guarded.failures,
        "instructions": accuracy(told) if told else None,
        "template_hash": digest_of(template.source)[:16] if template else None,
        "answers": answers,
        "scores": scores,
    }


def _judged(
    config: AnswersConfig, tasks: Sequence[Task], one: dict[str, Any], two: dict[str, Any]
) -> tuple[list[float | None], list[float | None]]:
    """What a judge gives to the one and the other, side by side; says how often it gave no verdict."""
    judge = make_judge(config.judge, config.judge_url)
    other = dict(zip((task.text for task in tasks), two["answers"], strict=True))
    guarded = Guarded(lambda answer, task: prefer(judge, task.text, answer, other[task.text]))
    wins = [guarded(answer, task) for answer, task in zip(one["answers"], tasks, strict=True)]
    for why, number in guarded.failures.items():
        say(f"the judge left {number} of {len(tasks)} undecided: {why}")
    return wins, [None if win is None else 1 - win for win in wins]
