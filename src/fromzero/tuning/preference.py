"""`fromzero align dpo`: pairs of a better and a worse answer -> a model that gives the better kind.

Straight from the pairs, without a model of rewards and without answers of its own (DPO, Rafailov et al. 2023), and by
the losses that came after; see preference_losses. What it is held against, the reference, is the model as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from fromzero.artifact import Artifact
from fromzero.dataset.formats import Messages
from fromzero.errors import UserError
from fromzero.evaluation.tasks import Task
from fromzero.evaluation.verifiers import KINDS, Guarded, make_verifier
from fromzero.model import Transformer
from fromzero.parallel import Fleet, World
from fromzero.training.metrics import read_metrics
from fromzero.training.settings import TrainConfig
from fromzero.training.trainer import CHECKPOINTS
from fromzero.tuning.base import Base, TuningConfig, finish, fit, open_base, tune_together
from fromzero.tuning.grading import end_of_turn
from fromzero.tuning.outcome import Change, Curve, Outcome, write_outcome
from fromzero.tuning.practice import Exam, PracticeConfig, make_speaker, task_ids
from fromzero.tuning.preference_losses import PairLoss
from fromzero.tuning.preferring import Judgements, Pairs, reference_logprobs
from fromzero.tuning.rollouts import RolloutConfig
from fromzero.tuning.sequences import Encoder, RowLoader, Rows, load_rows

REFERENCE = "reference.safetensors"
BEHAVIOUR = "answers with the behaviour"
LOOKED = {"preference_accuracy": "held-out pairs told apart", "likelier": "chosen answers that are likelier"}
TRAINED = {"margin": "reward of chosen less rejected", "chosen_reward": "reward of chosen answers"}
TRAINED |= {"rejected_reward": "reward of rejected answers", "good_reward": "reward of good answers"}
TRAINED |= {"bad_reward": "reward of bad answers", "kl": "divergence from the start, estimated"}


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(TuningConfig):
    """What is preferred, and how it is learned."""

    preferences: Path
    """File of pairs ("prompt", "chosen", "rejected", or another usual form), or a folder with train.* and validation.*;
    for kto, of answers that are good or bad by themselves ("prompt", "completion", "label")."""
    loss: PairLoss | Literal["kto"] = "sigmoid"
    """sigmoid is DPO, and with label_smoothing cDPO; orpo and simpo need no reference, kto no pairs."""
    beta: float = 0.1
    """How much log-ratios count: the lower, the further the model may go from where it started. For simpo, 2 to 10."""
    label_smoothing: float = 0.0
    """For sigmoid, robust and simpo: share of the pairs whose sides may be swapped, below 0.5."""
    per_token: bool | None = None
    """Whether log-ratios are means over tokens instead of sums; null: those of ipo are, as its authors had them."""
    margin: float = 1.0
    """For simpo: by how much rewards should differ (gamma)."""
    good_weight: float = 1.0
    """For kto: weight of good answers; see bad_weight."""
    bad_weight: float = 1.0
    """For kto: weight of bad ones. Weight times number should be about the same for both."""
    truncate: Literal["left", "right"] = "left"
    """Where what is longer than the context is cut: the beginning of the prompt, or the end of the answer."""
    behaviour: str | dict[str, Any] = r"\S"
    """What answers should be, to count how many are, before and after: a verifier by its name or with its settings, or
    a regular expression."""
    asked: int = 64
    """Held-out prompts that are answered for that."""
    max_tokens: int = 64
    """Longest such answer."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=200, batch_size=16, learning_rate=1e-5, warmup_steps=20, weight_decay=0.0, final_learning_rate=0.0
        )
    )
    """How it is trained: far more gently than by answers; adapters, and small models, bear ten times the rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0 or not 0 <= self.label_smoothing < 0.5 or min(self.good_weight, self.bad_weight) < 0:
            raise UserError("beta must be above 0, label_smoothing at least 0 and below 0.5, and weights at least 0")
        if self.parallel.pipeline > 1 or self.parallel.context > 1:
            raise UserError("preferences are learned with parallel.pipeline and parallel.context of 1")


def align_preferences(config: PreferenceConfig) -> Artifact:
    """Bring the tuned model up to date; resumed when it was cut off. Raises UserError."""
    return tune_together(config, {"preferences": config.preferences}, _align)


def _align(config: PreferenceConfig, folder: Path, world: World) -> Mapping[str, Any]:
    base, judged, run = open_base(config, folder, world), config.loss == "kto", folder / "run"
    encoder = Encoder(base.tokenizer, base.model.config.context, config.truncate)
    train, held_out, prompts = load_rows(encoder, config.preferences, judged)
    both, has_reference = Rows([*train.rows, *held_out.rows], {}), config.loss not in ("orpo", "simpo")
    file = folder / CHECKPOINTS / REFERENCE
    kept_R2 = reference_logprobs(base.model, both, file, world) if has_reference else torch.zeros(len(both.rows), 2)
    for rows, part_R2 in zip((train, held_out), kept_R2.split([len(train.rows), len(held_out.rows)]), strict=True):
        rows.beside["reference_P2"] = part_R2
    objective = (Judgements if judged else Pairs)(base.model, config)
    exam = _exam(config, base, prompts, run) if world.first else None

    def look(model: Transformer, step: int) -> dict[str, Any]:
        figures = objective.held_out(model, held_out) if held_out.rows else {}
        if step == 0 and has_reference:
            figures.pop("preference_accuracy", None)  # of rewards that are all 0
        return figures | (exam(model, step) if exam else {})

    def make_loader(fleet: Fleet) -> RowLoader:
        return RowLoader(train, config.train.batch_size, config.train.seed, fleet.data_rank, fleet.data_size)

    whole, figures = fit(config, base, objective, make_loader, look, folder, world)
    if whole is not None:
        pairs = 0 if judged else len(held_out.rows)  # good x bad answers are no independent pairs: no interval
        write_outcome(run, _outcome(exam, figures, pairs, encoder.notes(), run))
    return finish(whole, base, folder, figures, end_of_turn(base.tokenizer))


def _exam(config: PreferenceConfig, base: Base, prompts: Sequence[Messages], run: Path) -> Exam | None:
    """Held-out prompts that leave room for an answer, to be answered at each look; None when there are none."""
    spec, answers = config.behaviour, RolloutConfig(max_tokens=config.max_tokens)
    named = not isinstance(spec, str) or spec in KINDS
    verifier = Guarded(make_verifier(spec if named else {"kind": "regex", "pattern": spec}))
    tasks = {task.text: task for task in (Task(tuple(prompt)) for prompt in prompts)}
    asked = [(task, task_ids(base.tokenizer, task)) for task in tasks.values()]
    room = base.model.config.context - config.max_tokens
    fitting = [(task, ids) for task, ids in asked if len(ids) <= room][: config.asked]
    if not fitting:
        return None
    settings = PracticeConfig(model=config.model, output=config.output, train=config.train, rollouts=answers)
    questions = [ids for _, ids in fitting]
    speaker = make_speaker(base.model, base.tokenizer, answers, questions)
    return Exam([task for task, _ in fitting], questions, verifier, speaker, settings, run)


def _outcome(exam: Exam | None, figures: Mapping[str, Any], pairs: int, notes: Sequence[str], run: Path) -> Outcome:
    before = next(line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "look")
    found = exam.outcome("preference", figures) if exam else Outcome("preference")
    looked = {key: name for key, name in LOOKED.items() if key in figures}
    changes = [replace(change, name=BEHAVIOUR) if change.share else change for change in found.changes]
    changes += [Change(name, before.get(key), figures[key], "higher", pairs, True) for key, name in looked.items()]
    curves = [Curve(key, name, "look") for key, name in {**looked, "held_out_accuracy": BEHAVIOUR}.items()]
    curves += [Curve(key, name) for key, name in TRAINED.items()]
    drawn = [curve for curve in curves if curve.key in figures]
    return replace(found, changes=changes, curves=drawn, notes=[*notes, *found.notes])
