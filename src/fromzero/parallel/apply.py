"""The one ordered page: what is done to a model so that many devices train it.

The order matters. A pipeline is cut first of all, so that everything else sees only the layers of its own rank. Tensor
and expert parallelism replace weights by parts of them; context parallelism replaces attention; then blocks learn to
recompute and are compiled, as they are by then; data parallelism comes last, around all of it.
"""

from collections.abc import Mapping
from typing import Literal

from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from fromzero.parallel import data, experts
from fromzero.parallel.config import ParallelConfig
from fromzero.parallel.fleet import Fleet
from fromzero.parallel.pipeline import Pipeline
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
    sizes = config.sizes(world.size)
    mesh = make_mesh(world.device.type, sizes, config.expert) if world.size > 1 else None
    pipelined = mesh is not None and config.pipeline > 1
    fleet = Pipeline(objective, world, mesh, config) if pipelined else Fleet(objective, world, mesh)
    if mesh is None:
        return fleet
    if config.expert > 1:
        for part in fleet.parts:
            experts.spread(part, mesh)
    data.share(fleet, mesh)
    return fleet


def make_mesh(device: str, sizes: Mapping[str, int], expert: int) -> DeviceMesh:
    """All ranks in a grid; every dimension of config.DIMENSIONS can be asked for by its name, those of size 1 too.

    The dimension shard is made of two: `spread` (who else holds the same experts' other parts) and `expert`. Flat ones
    of several: `data` (replicate, shard: ranks with different rows), `loss` (and context: different tokens), `weights`
    (shard, context: those that share each weight).
    """
    names = ("pipeline", "replicate", "spread", "expert", "context", "tensor")
    shape = {**sizes, "spread": sizes["shard"] // expert, "expert": expert}
    mesh = init_device_mesh(device, tuple(shape[name] for name in names), mesh_dim_names=names)
    mesh["spread", "expert"]._flatten("shard")
    mesh["replicate", "spread", "expert"]._flatten("data")
    mesh["replicate", "spread", "expert", "context"]._flatten("loss")
    mesh["spread", "expert", "context"]._flatten("weights")
    return mesh
