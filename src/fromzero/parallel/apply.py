"""The one ordered page: what is done to a model so that many devices train it.

The order matters. Tensor and expert parallelism replace weights by parts of them; context parallelism replaces
attention; then blocks learn to recompute and are compiled, as they are by then; data parallelism comes last, around
all of it. A pipeline is cut first of all, so that everything else sees only the layers of its own rank.
"""

from typing import Literal

from torch import nn

from fromzero.parallel.config import DIMENSIONS, ParallelConfig
from fromzero.parallel.fleet import Fleet
from fromzero.parallel.world import World

Recompute = Literal["none", "selective", "full"]


def parallelize(
    objective: nn.Module,
    config: ParallelConfig,
    world: World,
    recompute: Recompute = "none",
    compiled: bool = False,
) -> Fleet:
    """Place an objective, whose `model` has the same weights on every rank, on the devices of the world, in place.

    recompute: what is worked out again in the backward pass instead of being kept. compiled: blocks by torch.compile.
    Raises UserError when the sizes don't fit the processes or the model.
    """
    if world.size == 1:
        config.sizes(1)
        return Fleet(objective, world)
    sizes = config.sizes(world.size)
    raise NotImplementedError(f"{DIMENSIONS}, {sizes}")
