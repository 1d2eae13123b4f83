"""The one ordered page: what is done to a model so that many devices train it.

The order matters. A pipeline is cut first of all, so that everything else sees only the layers of its own rank. Tensor
and expert parallelism replace weights by parts of them; context parallelism replaces attention; then blocks learn to
recompute and are compiled, as they are by then; data parallelism comes last, around all of it.
"""

from torch import nn

from fromzero.model.block import Block
from fromzero.model.recompute import Recompute
from fromzero.parallel import context, data, experts, tensor
from fromzero.parallel.config import ParallelConfig
from fromzero.parallel.fleet import Fleet
from fromzero.parallel.mesh import Mesh
from fromzero.parallel.pipeline import Pipeline
from fromzero.parallel.world import World


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
    sizes = config.sizes(world.size)
    if world.size == 1:
        fleet = Fleet(objective, world)
        _prepare_blocks(fleet, recompute, compiled)
        return fleet
    mesh = Mesh(world.device.type, sizes, config.expert)
    fleet = Pipeline(objective, world, mesh, config) if config.pipeline > 1 else Fleet(objective, world, mesh)
    if config.tensor > 1:
        for part in fleet.parts:
            tensor.split(part, mesh, config.sequence)
    if config.expert > 1:
        for part in fleet.parts:
            experts.spread(part, mesh)
    if config.context > 1:
        context.ring(fleet, mesh)
    _prepare_blocks(fleet, recompute, compiled)
    data.share(fleet, mesh)
    return fleet


def _prepare_blocks(fleet: Fleet, recompute: Recompute, compiled: bool) -> None:
    for block in (module for part in fleet.parts for module in part.modules() if isinstance(module, Block)):
        block.recompute = recompute
        if compiled:
            block.compile()
