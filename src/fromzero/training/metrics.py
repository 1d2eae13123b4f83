"""What a run writes down: `metrics.jsonl`, one JSON object a line, and TensorBoard events where that is installed.

Other trackers get the same numbers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fromzero.console import say
from fromzero.files import write_text
from fromzero.training.trackers import Tracker

FILE = "metrics.jsonl"


class MetricsLog:
    """Appends to `metrics.jsonl`. Opened at a step, it first drops what an interrupted run wrote after that step."""

    def __init__(
        self, folder: Path, resume_step: int = 0, first: bool = True, trackers: Sequence[Tracker] = ()
    ) -> None:
        """first: whether this rank is the one that writes; on others nothing happens."""
        self._board = self._file = None
        self._trackers = trackers
        if not first:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        kept = [line for line in read_metrics(self.path) if line["step"] <= resume_step] if resume_step else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self._board = _tensorboard(folder, resume_step)

    def write(self, values: Mapping[str, Any]) -> None:
        """One line; `values` holds 'step' and numbers or texts."""
        if self._file is None:
            return
        with self._goes_on():
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()  # what does not fit is tried again with the next line
        if self._board is not None:
            with self._goes_on():
                for name, value in values.items():
                    if isinstance(value, int | float) and name != "step":
                        self._board.add_scalar(name, value, values["step"])
        for tracker in self._trackers:
            tracker.write(values)

    def close(self) -> None:
        """Flush and close all of them."""
        for written in (self._file, self._board):
            if written is not None:
                with self._goes_on():
                    written.close()
        for tracker in self._trackers:
            tracker.close()

    @contextmanager
    def _goes_on(self) -> Iterator[None]:
        """A disk that is full is said, and ends no training."""
        try:
            yield
        except OSError as error:
            say(f"warning: figures could not be written below {self.path.parent} ({error.strerror}); training goes on")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; a last line cut off by a kill is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                return


def _tensorboard(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra `track` is not installed; metrics.jsonl has the same numbers
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1 if resume_step else 0)
