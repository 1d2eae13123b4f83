"""A run that learns from its own answers to tasks that code can check: what REINFORCE, expert iteration and GRPO share.

Tasks -> prompts; rollouts of the model as it is; a policy's loss; and an exam on tasks that are held out, at the start,
now and then, and at the end.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fromzero.artifact import Artifact
from fromzero.console import say
from fromzero.errors import UserError
from fromzero.evaluation.tasks import Task, TasksConfig, make_tasks
from fromzero.evaluation.verifiers import Guarded
from fromzero.inference import SamplingConfig
from fromzero.inference.compiled import CompiledRunner
from fromzero.inference.engine import EngineConfig
from fromzero.inference.runners import TRIED
from fromzero.model import Transformer
from fromzero.model.adapters import plain_state
from fromzero.parallel import Fleet, World
from fromzero.parallel.fleet import full
from fromzero.tokenizer import Tokenizer
from fromzero.training.metrics import read_metrics
from fromzero.training.samples import SampleLog
from fromzero.training.settings import TrainConfig
from fromzero.tuning.base import TuningConfig, finish, fit, open_base, tune_together
from fromzero.tuning.grading import end_of_turn
from fromzero.tuning.outcome import Change, Curve, Example, Outcome, write_outcome
from fromzero.tuning.policy import Policy, Rewards
from fromzero.tuning.remote_speaker import RemoteSpeaker
from fromzero.tuning.rollouts import RolloutConfig, Rollouts
from fromzero.tuning.speaker import Speaker

EXAMPLES = 16
CURVES = {"reward": "reward", "answer_tokens": "length of answers, tokens", "entropy": "entropy of drawn tokens"}
CURVES |= {"kl": "divergence from the start, nats per token", "clipped": "share of clipped tokens"}
CURVES |= {"answer_kl": "divergence from the start, nats an answer", "penalty": "penalty of divergence"}
CURVES |= {"value_loss": "value loss", "explained_variance": "variance of returns that values explain"}


@dataclass(frozen=True, kw_only=True)
class PracticeConfig(TuningConfig):
    """What is practised, and how."""

    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=200, batch_size=64, learning_rate=1e-6, warmup_steps=10, weight_decay=0.0, schedule="constant",
            validate_every=20, log_every=1,
        )
    )  # fmt: skip
    """How it is trained; train.batch_size counts answers."""
    tasks: TasksConfig = field(default_factory=TasksConfig)
    """What is asked; the tenth of it that is held out is never learned from."""
    held_out: int = 200
    """Tasks of the exam."""
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    """How answers are made."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks.split != "all" or self.held_out < 1:
            raise UserError("tasks.split stays as it is, and held_out is at least 1: the exam is held out of the tasks")
        if self.parallel.pipeline > 1 or self.parallel.context > 1:
            raise UserError("answers are learned with parallel.pipeline and parallel.context of 1")
        if bool(self.rollouts.url and self.adapters) != bool(self.rollouts.adapters_folder):
            raise UserError("rollouts.adapters_folder brings adapters to the server of rollouts.url: give all or none")


def practise(
    config: PracticeConfig,
    make_policy: Callable[[Any, Any], Policy],
    task: Any,
    inputs: Mapping[str, Path | None] | None = None,
) -> Artifact:
    """Bring the tuned model up to date. make_policy: (model, config) -> what is learned. task: see Outcome.

    inputs: what else is read, by the setting that names it.
    """
    file = Path(config.tasks.source)
    source = {"tasks.source": file} if file.is_file() else {}

    def make(here: Any, folder: Path, world: World) -> Mapping[str, Any]:
        return _practise(here, make_policy, task, folder, world)

    return tune_together(config, {**source, **(inputs or {})}, make, ignore=("rollouts.adapters_folder",))


def _practise(
    config: PracticeConfig, make_policy: Callable[[Any, Any], Policy], task: Any, folder: Path, world: World
) -> Mapping[str, Any]:
    base = open_base(config, folder, world)
    room = base.model.config.context - config.rollouts.max_tokens
    tasks, prompts = _fitting(make_tasks(replace(config.tasks, split="train")), base.tokenizer, room)
    held_out = make_tasks(replace(config.tasks, split="held_out", count=config.held_out))
    exam_tasks, questions = _fitting(held_out, base.tokenizer, room)
    policy = make_policy(base.model, config)
    base = replace(base, model=policy.model)
    speaker = make_speaker(base.model, base.tokenizer, config.rollouts, [*prompts, *questions])
    remote = RemoteSpeaker(config, config.rollouts, base.tokenizer) if config.rollouts.url else None
    verifier = Guarded()
    exam = Exam(exam_tasks, questions, Guarded(), speaker, config, folder / "run", policy.rewards)

    loaders = list[Rollouts]()

    def make_loader(fleet: Fleet) -> Rollouts:
        def score(numbers: Sequence[int], answers: Sequence[str]) -> Sequence[float | None]:
            if policy.rewards:
                return policy.rewards([tasks[number] for number in numbers], answers)
            return [verifier(answer, tasks[number]) for number, answer in zip(numbers, answers, strict=True)]

        def extend(rows: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            return policy.extend(rows, fleet)

        sizes = config.train.batch_size, config.train.seed, world, (fleet.data_rank, fleet.data_size)
        sync = lambda: remote.follow(fleet) if remote else follow(speaker, fleet)  # noqa: E731
        loaders.append(Rollouts(config.rollouts, prompts, remote or speaker, score, extend, sync, *sizes))
        return loaders[-1]

    with closing(remote) if remote else nullcontext():
        whole, figures = fit(config, base, policy, make_loader, exam, folder, world, policy.parts)
    if whole is not None:
        why = ", ".join(f"{name}: {count}" for name, count in verifier.failures.items())
        told = f" (among them {why})" if why else ""
        unscored = loaders[-1].unscored
        notes = [f"{unscored} answers of training had no score{told}"] if unscored else []
        write_outcome(folder / "run", exam.outcome(task, figures, notes))
    ends = end_of_turn(base.tokenizer)
    return finish(whole if whole is None else policy.plain(whole), base, folder, figures, ends)


def _fitting(tasks: Sequence[Task], tokenizer: Tokenizer, room: int) -> tuple[list[Task], list[list[int]]]:
    """The tasks whose prompts leave room for an answer, and these prompts. Raises UserError when there are none."""
    pairs = [(task, task_ids(tokenizer, task)) for task in tasks]
    kept = [(task, ids) for task, ids in pairs if len(ids) <= room]
    if len(kept) < len(pairs):
        say(f"warning: {len(pairs) - len(kept)} of {len(pairs)} tasks are left out: no room for rollouts.max_tokens")
    if not kept:
        raise UserError("no task leaves room in the context for rollouts.max_tokens; lower it")
    return [task for task, _ in kept], [ids for _, ids in kept]


def task_ids(tokenizer: Tokenizer, task: Task) -> list[int]:
    """A task as a prompt: by the chat template if the model has one, else as the beginning of a text."""
    return list(task.ids(tokenizer, chat=tokenizer.chat_template is not None))


def make_speaker(
    model: Transformer, tokenizer: Tokenizer, config: RolloutConfig, prompts: Sequence[Sequence[int]]
) -> Speaker:
    """A copy of the model that answers these prompts, with room for as many at once as an engine runs."""
    longest = max(map(len, prompts)) + config.max_tokens
    usual = EngineConfig()
    sizes = replace(usual, queued=max(usual.queued, config.answers), cache_tokens=usual.running * (longest + 16))
    speaker = Speaker(model, tokenizer, config.dtype, sizes)
    if isinstance(speaker.engine.runner, CompiledRunner):
        speaker.engine.runner.most = TRIED[-1]  # not what was measured: a resumed run has to speak in the same way
    return speaker


def follow(speaker: Speaker, fleet: Fleet) -> None:
    """Bring the weights of the fleet to this rank's speaker; all ranks call it."""
    state: Iterable[tuple[str, Tensor]] = plain_state(fleet.parts[0])
    speaker.sync((name, full(tensor)) for name, tensor in state)


class Exam:
    """Held-out tasks that are put to the model at each look, answered with its likeliest words."""

    def __init__(
        self,
        tasks: Sequence[Task],
        questions: Sequence[Sequence[int]],
        verifier: Guarded,
        speaker: Speaker,
        config: PracticeConfig,
        run: Path,
        rewards: Rewards | None = None,
    ) -> None:
        self.tasks, self.questions, self.verifier, self.speaker = tasks, questions, verifier, speaker
        self.config, self.run, self.rewards = config, run, rewards

    def __call__(self, model: Transformer, step: int) -> dict[str, Any]:
        """Figures for metrics.jsonl."""
        self.speaker.sync(plain_state(model))
        sampling = SamplingConfig(temperature=0, max_tokens=self.config.rollouts.max_tokens)
        answers = [group[0] for group in self.speaker.say(self.questions, sampling)]
        self.verifier.failures.clear()  # what the report tells is of the last look
        every = [self._score(a.text, task) for a, task in zip(answers, self.tasks, strict=True)]
        scores = [score for score in every if score is not None]
        if step in (0, self.config.train.steps):
            texts = [(task.text, a.text) for task, a in zip(self.tasks, answers, strict=True)]
            SampleLog(self.run).write(step, texts[:EXAMPLES])
        right, length = sum(score >= 1 for score in scores), sum(len(a.tokens) for a in answers)
        figures = {"held_out_length": length / len(answers)}
        if any(map(self._checked, self.tasks)):
            say(f"step {step}: {right} of {len(scores)} held-out tasks right")
            figures |= {"held_out_accuracy": right / max(1, len(scores)), "held_out_scored": len(scores)}
        if self.rewards:
            given = [r for r in self.rewards(self.tasks, [a.text for a in answers]) if r is not None and r == r]
            figures["held_out_reward"] = sum(given) / max(1, len(given))
            say(f"step {step}: held-out answers are rewarded with {figures['held_out_reward']:.3f}")
        return figures

    def _checked(self, task: Task) -> bool:
        """Where answers are rewarded by a model, tasks need nothing to check them by."""
        return task.checkable or not self.rewards

    def _score(self, answer: str, task: Task) -> float | None:
        return self.verifier(answer, task) if self._checked(task) else None

    def outcome(self, task: Any, figures: Mapping[str, Any], notes: Sequence[str] = ()) -> Outcome:
        """What changed, and what else is to be told."""
        before = next(line for line in read_metrics(self.run / "metrics.jsonl") if line["kind"] == "look")
        names = {"held_out_accuracy": "held-out accuracy", "held_out_length": "length of held-out answers, tokens"}
        names |= {"retained_loss": "loss on what it knew before, nats per token"}
        names |= {"held_out_reward": "reward of held-out answers"}
        better: dict[str, Any] = {"held_out_accuracy": "higher", "held_out_reward": "higher", "retained_loss": "lower"}
        counts = {"held_out_accuracy": figures.get("held_out_scored", 0), "retained_loss": 0}
        changes = []
        for key in (key for key in names if key in figures):
            way, count = better.get(key, ""), counts.get(key, len(self.tasks))
            changes.append(Change(names[key], before[key], figures[key], way, count, key == "held_out_accuracy"))
        looked = "held_out_accuracy" if "held_out_accuracy" in figures else "held_out_reward"
        curves = [Curve(looked, names[looked], "look")]
        curves += [Curve(key, name) for key, name in CURVES.items() if key in figures]
        failed = self.verifier.failures.items()
        notes = [*notes, *(f"{count} held-out answers had no score: {why}" for why, count in failed)]
        speed = figures["steps"] * self.config.train.batch_size / figures["seconds"]
        more = {"samples_per_second": speed, "steps": figures["steps"]}
        return Outcome(task, changes, curves, self._examples(), notes=notes, more=more)

    def _examples(self) -> list[Example]:
        said: dict[str, list[str]] = {}
        for line in read_metrics(self.run / "samples.jsonl"):
            said.setdefault(line["prompt"], []).append(line["text"])
        tasks = {task.text: task for task in self.tasks}
        found = []
        for prompt, (before, *rest) in said.items():
            texts = before, (rest or [before])[-1]
            task = tasks[prompt]
            right = [self._score(text, task) == 1 if self._checked(task) else None for text in texts]
            found.append(Example(prompt, *texts, task.answer, *right))
        return found
