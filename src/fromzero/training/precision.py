"""In which numbers a model computes: float8 layers, and the scale of losses that float16 needs."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fromzero.device import TrainDtype
from fromzero.model.block import Block
from fromzero.model.float8 import MULTIPLE
from fromzero.model.layers import Linear
from fromzero.parallel import Fleet


class LossScaler:
    """Multiplies losses so that small gradients are no zeros in float16 (Micikevicius et al. 2018, section 3.2).

    The scale is halved when a gradient overflows, and doubled after `interval` steps without; a step whose gradients
    overflow is left out. It decides by the global norm of the gradients, which is the same on all ranks. For other
    dtypes the scale is 1 and stays so.
    """

    def __init__(self, dtype: torch.dtype, scale: float = 2.0**16, interval: int = 2000) -> None:
        self.active = dtype == torch.float16
        self.scale, self.interval = (scale if self.active else 1.0), interval
        self.good = 0
        """Steps without overflow since the scale changed."""
        self.overflows = 0
        """Steps left out so far."""

    @torch.no_grad()
    def unscale(self, fleet: Fleet) -> None:
        """Divide the gradients by the scale; to be called before they are clipped."""
        gradients = [p.grad for _, p in fleet.named_parameters() if p.grad is not None]
        if self.active and gradients:
            torch._foreach_mul_(gradients, 1 / self.scale)

    def allows(self, loss: float, norm: float) -> bool:
        """Whether the step may be taken, by the norm of its gradients; sets the next scale.

        An overflow at a scale of 1, or of the loss, which is not scaled, is let through, for the guard to find.
        """
        if not self.active or not math.isfinite(loss):
            return True
        if not math.isfinite(norm) and self.scale > 1:
            self.scale, self.good, self.overflows = max(1.0, self.scale / 2), 0, self.overflows + 1
            return False
        self.good += 1
        if self.good == self.interval:
            self.scale, self.good = self.scale * 2, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON can hold it."""
        return {"scale": self.scale, "good": self.good, "overflows": self.overflows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.scale, self.good = float(state["scale"]), int(state["good"])
        self.overflows = int(state["overflows"])


def use_float8(model: nn.Module, dtype: TrainDtype) -> int:
    """Let the linear layers of blocks compute in 8 bits if `dtype` is float8; how many do.

    Layers whose sizes are no multiples of 16 stay as they are, and so do experts, embedding and output layer.
    """
    layers = [
        layer
        for block in model.modules()
        if dtype == "float8" and isinstance(block, Block)
        for layer in block.modules()
        if isinstance(layer, Linear) and layer.in_features % MULTIPLE == layer.out_features % MULTIPLE == 0
    ]
    for layer in layers:
        layer.float8 = True
    return len(layers)
