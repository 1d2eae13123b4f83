"""Read a run: the finished artifacts in its folder, and what the trainings among them wrote down."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromzero.artifact import MANIFEST, Artifact, here, is_artifact, open_artifact
from fromzero.console import say
from fromzero.errors import UserError
from fromzero.locations import at, name_of, url_of
from fromzero.training.metrics import read_metrics
from fromzero.tuning.outcome import OUTCOME

Line = Mapping[str, Any]
_KINDS = (
    "documents",
    "corpus",
    "conversations",
    "preferences",
    "tokenizer",
    "tokens",
    "mixture",
    "model",
    "evaluation",
)


@dataclass(frozen=True)
class Training:
    """A trained model with the record of its training."""

    artifact: Artifact
    steps: tuple[Line, ...]
    """Lines of metrics.jsonl about training steps."""
    looks: tuple[Line, ...]
    """Lines about held-out data."""
    samples: tuple[Line, ...]
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """outcome.json of a tuned model: what changed, and how; see tuning/outcome.py."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds. A stage that is not there is None, and its part of the report is left out."""

    path: Path
    stages: tuple[Artifact, ...]
    documents: Artifact | None = None
    corpus: Artifact | None = None
    tokenizer: Artifact | None = None
    tokens: Artifact | None = None
    """Tokens, or the mixture of them."""
    base: Training | None = None
    scores: Artifact | None = None
    questions: Artifact | None = None
    tuned: tuple[Training, ...] = ()
    """Models that were made of others, in the order of their making."""


def read_run(path: Path) -> Run:
    """The stages in a run folder, found by the kinds in their manifests, whatever their folders are called; or the one
    stage whose folder it is.

    Raises UserError when there is no finished stage, or when one does not match its manifest.
    """
    stages = find_stages(path)
    of_kind = {stage.kind: stage for stage in stages}
    base = next((s for s in reversed(stages) if s.kind == "model" and "tokens" in s.config), None)
    return Run(
        path=path,
        stages=stages,
        documents=of_kind.get("documents"),
        corpus=of_kind.get("corpus"),
        tokenizer=of_kind.get("tokenizer"),
        tokens=of_kind.get("mixture", of_kind.get("tokens")),
        base=read_training(base) if base else None,
        scores=_scores(stages, base),
        questions=of_kind.get("conversations"),
        tuned=tuple(read_training(stage) for stage in stages if _is_tuned(stage)),
    )


def find_stages(path: Path) -> tuple[Artifact, ...]:
    """The finished artifacts in a folder in the order of their making, without reports and set-aside models."""
    if url := url_of(path):
        with at(url) as (system, there):
            folders = [here(path / name_of(p)) for p in system.ls(there, False) if system.exists(f"{p}/{MANIFEST}")]
    elif is_artifact(path):
        folders = [path]
    elif path.is_dir():
        folders = [p for p in sorted(path.iterdir()) if p.is_dir() and p.suffix != ".previous" and is_artifact(p)]
    else:
        raise UserError(f"{path}: no such folder; name the folder of a run, as in `fromzero report runs/quickstart`")
    for folder in folders:
        if not (folder / MANIFEST).exists():
            say(f"{folder} is unfinished, the report leaves it out")
    stages = [open_artifact(folder) for folder in folders if (folder / MANIFEST).exists()]
    stages = [stage for stage in stages if stage.kind in _KINDS]
    if not stages:
        raise UserError(f"{path} holds no finished stage of a run; run a recipe first, as in `fromzero quickstart`")
    return tuple(sorted(stages, key=lambda stage: (stage.manifest["finished"], _KINDS.index(stage.kind))))


def _is_tuned(stage: Artifact) -> bool:
    """Of all that makes a model of another (conversion, pruning) only tuning says what it changed."""
    return stage.kind == "model" and ("conversations" in stage.config or (stage.path / "run" / OUTCOME).exists())


def _scores(stages: Sequence[Artifact], base: Artifact | None) -> Artifact | None:
    """The evaluation of the base model; a tuned model's would not compare with what the base learned."""
    found = [stage for stage in stages if stage.kind == "evaluation"]
    if base:
        found = [stage for stage in found if stage.manifest["inputs"].get("model") == base.digest]
    return found[-1] if found else None


def read_training(artifact: Artifact) -> Training:
    """A model with its metrics, samples and outcome, as far as they are there."""
    run = artifact.path / "run"
    lines = list(read_metrics(run / "metrics.jsonl"))
    outcome = run / OUTCOME
    return Training(
        artifact=artifact,
        steps=tuple(line for line in lines if line.get("kind") == "train"),
        looks=tuple(line for line in lines if line.get("kind") == "look"),
        samples=tuple(read_metrics(run / "samples.jsonl")),
        outcome=json.loads(outcome.read_text(encoding="utf-8")) if outcome.exists() else {},
    )
