"""What a tuning stage says of itself: `run/outcome.json`, from which the report draws before and after."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fromzero.files import to_plain, write_json

OUTCOME = "outcome.json"
Task = Literal["chat", "classify", "distill", "reward", "preference", "reinforce", "expert", "grpo", "ppo"]
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Change:
    """A figure before and after."""

    name: str
    """What it is, in the words of a table: 'held-out accuracy'."""
    before: float | None
    after: float | None
    better: Better = ""
    """Which way is better; '' for neither."""
    count: int = 0
    """Of how many questions, texts or pairs; 0 where that means nothing."""
    share: bool = False
    """Whether it is a share, shown in percent with a Wilson interval."""


@dataclass(frozen=True)
class Curve:
    """A line over training steps, of a key of run/metrics.jsonl."""

    key: str
    name: str
    kind: Literal["train", "look"] = "train"


@dataclass(frozen=True)
class Example:
    """The same prompt before and after, side by side."""

    prompt: str
    before: str
    after: str
    expected: str = ""
    """What a person, or the data, says; '' where there is nothing to compare with."""
    right_before: bool | None = None
    right_after: bool | None = None


@dataclass(frozen=True)
class Outcome:
    """All of it."""

    task: Task
    changes: Sequence[Change] = ()
    curves: Sequence[Curve] = ()
    examples: Sequence[Example] = ()
    confusion: dict[str, Any] | None = None
    """{"labels": [...], "counts": [[...]]}: rows are what is true, columns what was said."""
    calibration: Sequence[dict[str, float]] = ()
    """Bins of {"confidence", "accuracy", "count"}."""
    notes: Sequence[str] = ()
    """What else is to be known: what was dropped, cut or left out, and how often."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further figures, by name, for programs."""


def write_outcome(run: Path, outcome: Outcome) -> None:
    """Write `run/outcome.json`; numbers that are not finite become null."""
    write_json(run / OUTCOME, _finite(to_plain(outcome)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
