"""Other people's places to watch a run: Weights & Biases and trackio, asked for by `train.track`.

What they can't do is said, and they are left out from then on: they never stop a run.
"""

import dataclasses
import importlib
import importlib.util
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fromzero.console import say
from fromzero.errors import missing_extra
from fromzero.files import write_text
from fromzero.training.settings import TrainConfig


class Tracker:
    """A run at one of them; both packages have the same three functions."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        """name: of the package; folder: of the run, which keeps its name there, so that a resumed run goes on."""
        self.name, own = name, _own_name(folder)
        known = {"project": "fromzero", "name": own, "config": dict(settings), "resume": "allow"}
        if name == "wandb":  # where the id is what a run is known by
            known |= {"id": own, "dir": str(folder)}
        self.run: Any = None
        self.run = self._tried(lambda: importlib.import_module(name).init(**known))

    def write(self, values: Mapping[str, Any]) -> None:
        """Numbers of a step; `values` holds 'step'."""
        numbers = {n: v for n, v in values.items() if isinstance(v, int | float) and n != "step"}
        if self.run is not None and numbers:
            self._tried(lambda: self.run.log(numbers, step=values["step"]))

    def close(self) -> None:
        """Say that the run has ended."""
        if self.run is not None:
            self._tried(lambda: self.run.finish())

    def _tried(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            say(f"{self.name} failed ({error!r}); training goes on without it, metrics.jsonl has everything")
            self.run = None


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
        write_text(file, f"{folder.resolve().parent.name}-{secrets.token_hex(4)}")
    return file.read_text(encoding="utf-8")
