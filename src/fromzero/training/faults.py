"""What must not reach the optimizer: losses and gradients that are no numbers, and spikes.

A spike is a loss or gradient norm more than SIGMAS standard deviations above the mean of the last WINDOW steps, once
there are HISTORY of them (the rule of OLMo-core's optimizers that skip steps).
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from fromzero.errors import UserError
from fromzero.model.linear_loss import IGNORE
from fromzero.parallel.fleet import Batch, Fleet

WINDOW, HISTORY, SIGMAS = 128, 64, 6.0
PATIENCE = 16  # so many spikes on end are no spikes but how things are now: data of another kind, say


class Guard:
    """Looks at every step before it is taken."""

    def __init__(self, skip_spikes: bool) -> None:
        self.skip_spikes = skip_spikes
        self.skipped = 0
        """Steps left out so far."""
        self.on_end = 0
        """How many of them are the last ones."""
        self.history: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        """Loss and gradient norm of the last steps that were taken."""

    def allows(self, step: int, loss: float, norm: float, where: Callable[[], str]) -> bool:
        """Whether the step may be taken. loss and norm are those over all ranks, so all ranks decide alike.

        where: what made it so, for the message; all ranks call it. Raises UserError when either is not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(
                f"training diverged: at step {step} the loss is {loss} and the gradient norm {norm}{where()}; "
                "lower learning_rate or raise warmup_steps, and run again"
            )
        if not self.skip_spikes:
            return True
        if self._spikes(loss, norm):
            self.skipped, self.on_end = self.skipped + 1, self.on_end + 1
            return False
        self.on_end = 0
        self.history.append((loss, norm))
        return True

    def _spikes(self, loss: float, norm: float) -> bool:
        if self.on_end >= PATIENCE:
            self.history.clear()
        if len(self.history) < HISTORY:
            return False
        past = np.array(self.history)
        return bool((np.array([loss, norm]) > past.mean(0) + SIGMAS * past.std(0)).any())

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""
        return {"skipped": self.skipped, "on_end": self.on_end, "history": [list(pair) for pair in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.skipped, self.on_end = int(state["skipped"]), int(state["on_end"])
        self.history = deque(((float(loss), float(norm)) for loss, norm in state["history"]), WINDOW)


def whereabouts(fleet: Fleet, loader: Any, batch: Batch, rows: int | None, count: float) -> str:
    """Which row of which rank makes loss or gradients no numbers, and its documents, as the end of a sentence.

    For the batch and its count as in Fleet.gradients, whose gradients it throws away. All ranks must call it.
    """
    world = fleet.world
    parts = (p.to_local() if isinstance(p, DTensor) else p for _, p in fleet.named_parameters())
    if any(sick := world.gather(not all(bool(part.isfinite().all()) for part in parts))):
        return f": the weights of {_ranks(sick)} are no numbers any more"
    height = len(batch["targets_BT"])
    if _fails(fleet, batch, rows, count, range(0)):
        return ", also without the batch: weights grown too far, a layer or the device are at fault, not the data"
    place = _narrowed(range(height * fleet.data_size), lambda part: _fails(fleet, batch, rows, count, part))
    owner, row = divmod(place, height)
    if not _fails(fleet, batch, rows, count, {place}):
        return "; no row of the batch alone makes it so"
    others = set(range(height * fleet.data_size)) - {place}
    also = " as others do too" if _fails(fleet, batch, rows, count, others) else ""
    owns = fleet.data_rank == owner
    known = f" (documents {', '.join(loader.documents()[row])})" if owns and hasattr(loader, "documents") else ""
    ranks, documents = zip(*world.gather((owns, known)), strict=True)
    return f"; row {row} of {_ranks(ranks)} makes it so{max(documents)}{also}"


def _narrowed(places: range, fails: Callable[[range], bool]) -> int:
    """A place among those that fail, by halves."""
    while len(places) > 1:
        half = places[: len(places) // 2]
        places = half if fails(half) else places[len(half) :]
    return places[0]


def _fails(fleet: Fleet, batch: Batch, rows: int | None, count: float, places: Collection[int]) -> bool:
    """Whether some rows of the whole batch, with all others blank, give a loss or gradients that are no numbers."""
    height = len(batch["targets_BT"])
    first = fleet.data_rank * height
    keep_B = torch.tensor([first + row in places for row in range(height)])
    parts = {name: _blanked(name, tensor, keep_B) for name, tensor in batch.items()}
    fleet.clear()
    loss = fleet.gradients(parts, rows, count)
    norm = fleet.clip(0.0)
    return not (math.isfinite(loss) and math.isfinite(norm))


def _blanked(name: str, tensor: torch.Tensor, keep_B: torch.Tensor) -> torch.Tensor:
    """Rows that are not kept have tokens 0 that nobody counts; what may be seen (True) stays to be seen."""
    blank = IGNORE if name == "targets_BT" else tensor.dtype == torch.bool
    keep = keep_B.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
    return torch.where(keep, tensor, torch.full_like(tensor, blank))


def _ranks(flags: Sequence[bool]) -> str:
    numbers = [str(rank) for rank, flag in enumerate(flags) if flag]
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
