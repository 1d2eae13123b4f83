"""What must not reach the optimizer: losses and gradients that are no numbers, and spikes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from fromzero.errors import UserError


class Guard:
    """Looks at every step before it is taken."""

    def __init__(self, skip_spikes: bool) -> None:
        self.skip_spikes = skip_spikes
        self.skipped = 0
        """Steps left out so far."""

    def allows(self, step: int, loss: float, norm: float, where: Callable[[], str]) -> bool:
        """Whether the step may be taken. loss and norm are those over all ranks, so all ranks decide alike.

        where: what the batch was made of, for the message. Raises UserError when either is not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise UserError(
                f"training diverged: at step {step} the loss is {loss} and the gradient norm {norm}{where()}; "
                "lower learning_rate or raise warmup_steps, and run again"
            )
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.skipped = int(state["skipped"])
