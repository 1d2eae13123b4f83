"""When memory runs out: fewer rows at once, the same batch, and the run goes on."""

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fromzero.console import say
from fromzero.errors import Interrupted, UserError
from fromzero.files import write_json
from fromzero.parallel import Fleet
from fromzero.parallel.fleet import Batch
from fromzero.training.random_state import random_state, set_random_state

OUT_OF_MEMORY = 75
"""Exit code of a rank that ran out of memory: started again, as torchrun does, all take fewer rows at once."""
_MESSAGES = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")


class MicroBatches:
    """Gradients of batches in micro-batches of so many rows, and of fewer from when those don't fit."""

    def __init__(self, rows: int | None, fleet: Fleet, folder: Path) -> None:
        """rows: to begin with; None takes all at once. folder: where ranks leave word for when they are started again.

        Alone, the step is done again: weights have not moved, gradients and random states are put back. With several
        ranks, who runs out ends, and the others with it; what the folder says then holds from the start.
        """
        self.rows, self.fleet, self._folder = rows, fleet, folder
        self.fitted: int | None = None
        """Rows that were found to fit after more had not."""
        for note in folder.glob("micro-batch-*.json") if fleet.world.size > 1 else ():
            self.load_state_dict(json.loads(note.read_bytes()))

    def gradients(self, batch: Batch, count: float, scale: float = 1.0) -> float:
        """As Fleet.gradients. Raises UserError when not even one row fits, and Interrupted on one of several ranks."""
        while True:
            drawn = random_state()
            try:
                return self.fleet.gradients(batch, self.rows, count, scale)
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
            # Only here, where the error and the tensors that its frames hold are gone, is there room again.
            self._take_fewer(len(batch["targets_BT"]))
            self.fleet.clear()
            gc.collect()
            if self.fleet.world.device.type == "cuda":
                torch.cuda.empty_cache()
            set_random_state(drawn)

    def _take_fewer(self, rows: int) -> None:
        had = min(self.rows or rows, rows)
        if had == 1:
            raise UserError(
                "memory does not suffice for one sequence; set train.recompute to full, lower model.context or the "
                "size of the model, or share it among more devices (parallel.shard)"
            )
        self.rows = self.fitted = next(fewer for fewer in range(had // 2, 0, -1) if rows % fewer == 0)
        what = f"memory does not suffice for {had} sequences at once: going on with {self.rows}, the batch is the same"
        if self.fleet.world.size > 1:
            self._folder.mkdir(parents=True, exist_ok=True)  # before the first checkpoint there is none
            write_json(self._folder / f"micro-batch-{self.fleet.world.rank:05d}.json", self.state_dict())
            raise Interrupted(f"{what}; start the run again if torchrun does not", OUT_OF_MEMORY)
        say(what)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""
        return {"fitted": self.fitted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        if (fitted := state["fitted"]) is not None:
            self.rows = self.fitted = min(int(fitted), self.rows or int(fitted))


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, of a GPU or of the computer."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(m in str(error) for m in _MESSAGES)
