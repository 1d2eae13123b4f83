"""Other people's places to watch a run: Weights & Biases and trackio.

Asked for by `train.track`. What they can't do, they are warned about and left out for: they never stop a run.
"""

import dataclasses
import importlib
import importlib.util
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fromzero.artifact import write_text
from fromzero.console import say
from fromzero.errors import missing_extra
from fromzero.training.settings import TrainConfig

PROJECT = "fromzero"


class Tracker:
    """A run at one of them; both packages have the same three functions."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """name: of the package; folder: of the run, whose name there is kept in it, so that a resumed run goes on."""
        self.name, self.run = name, None
        # wandb's key of a run is its id, trackio's its name.
        own = {"id": _own_name(folder), "dir": str(folder)} if name == "wandb" else {}
        with _Warned(self):
            package = importlib.import_module(name)
            self.run = package.init(
                project=PROJECT, name=_own_name(folder), config=dict(settings), resume="allow", **own
            )

    def write(self, values: Mapping[str, Any]) -> None:
        """Numbers of a step; `values` holds 'step'."""
        numbers = {n: v for n, v in values.items() if isinstance(v, int | float) and n != "step"}
        if self.run is not None and numbers:
            with _Warned(self):
                self.run.log(numbers, step=values["step"])

    def close(self) -> None:
        """Say that the run has ended."""
        if self.run is not None:
            with _Warned(self):
                self.run.finish()


class _Warned:
    """What is raised within is said, and the tracker is not asked again."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        say(f"{self.tracker.name} failed ({error!r}); training goes on without it, metrics.jsonl has everything")
        self.tracker.run = None
        return True


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError when one is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise missing_extra(name, f"track-{name}")


def open_trackers(config: TrainConfig, folder: Path) -> list[Tracker]:
    """Those that a config names, for the run in a folder."""
    return [Tracker(name, folder, dataclasses.asdict(config)) for name in config.track]


def _own_name(folder: Path) -> str:
    """The name of the model's folder and four random bytes, drawn when the run begins."""
    file = folder / "tracked-as.txt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        model = folder.resolve().parent.name.removesuffix(".unfinished") or "run"
        write_text(file, f"{model}-{secrets.token_hex(4)}")
    return file.read_text(encoding="utf-8")
