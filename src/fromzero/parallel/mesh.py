"""All ranks in a grid, whose dimensions can be asked for by their names, those of size 1 too."""

import math
from collections.abc import Mapping

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

_GRID = ("pipeline", "replicate", "spread", "expert", "context", "tensor")
_FLAT = {
    "shard": ("spread", "expert"),
    "data": ("replicate", "spread", "expert"),
    "loss": ("replicate", "spread", "expert", "context"),
    "weights": ("spread", "expert", "context"),
    "experts": ("spread", "context"),
}


class Mesh:
    """`mesh["tensor"]` are the ranks that share this rank's place in all other dimensions; see config.DIMENSIONS.

    The dimension shard is made of two: `expert`, ranks that have other experts, and `spread`. Flat ones of several:
    `data` (ranks with other rows), `loss` (with other tokens), `weights` (with other parts of each weight), `experts`
    (with other parts of the same experts).
    """

    def __init__(self, device: str, sizes: Mapping[str, int], expert: int = 1) -> None:
        """device: kind of the devices that talk. sizes: those of config.DIMENSIONS. All ranks must call it."""
        self.device = device
        shape = {**sizes, "spread": sizes["shard"] // expert, "expert": expert}
        everyone = init_device_mesh(device, (math.prod(sizes.values()),), mesh_dim_names=("all",))
        grid = everyone._unflatten(0, tuple(shape[name] for name in _GRID), _GRID)
        self._known: dict[str | tuple[str, ...], DeviceMesh] = {name: grid[name] for name in _GRID}
        self._known |= {name: grid[several]._flatten(name) for name, several in _FLAT.items()}

    def __getitem__(self, names: str | tuple[str, ...]) -> DeviceMesh:
        """One dimension, or a grid of several."""
        if names not in self._known:
            self._known[names] = DeviceMesh._concatenate([self._known[name] for name in names])
        return self._known[names]


def local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor; gradients pass through."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
