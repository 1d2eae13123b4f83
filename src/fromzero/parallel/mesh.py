"""All ranks in a grid, whose dimensions can be asked for by their names, those of size 1 too."""

import math
from collections.abc import Mapping

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


class Mesh:
    """`mesh["tensor"]` are the ranks that share this rank's place in all other dimensions; see config.DIMENSIONS.

    The dimension shard is made of two: `spread` and `expert`, the ranks that have other experts. Flat ones of several:
    `data` (replicate, shard: ranks with other rows), `loss` (and context: other tokens), `weights` (shard, context:
    other parts of each weight).
    """

    def __init__(self, device: str, sizes: Mapping[str, int], expert: int = 1) -> None:
        """device: kind of the devices that talk. sizes: those of config.DIMENSIONS. All ranks must call it."""
        self.device = device
        everyone = init_device_mesh(device, (math.prod(sizes.values()),), mesh_dim_names=("all",))
        shape = {**sizes, "spread": sizes["shard"] // expert, "expert": expert}
        shape["weights"] = sizes["shard"] * sizes["context"]

        def view(*names: str) -> DeviceMesh:
            return everyone._unflatten(0, tuple(shape[name] for name in names), names)

        fine = view("pipeline", "replicate", "spread", "expert", "context", "tensor")
        self._views = (view("pipeline", "replicate", "weights", "tensor"), fine)
        self._flat = {
            "shard": fine["spread", "expert"]._flatten("shard"),
            "data": fine["replicate", "spread", "expert"]._flatten("data"),
            "loss": fine["replicate", "spread", "expert", "context"]._flatten("loss"),
        }

    def __getitem__(self, names: str | tuple[str, ...]) -> DeviceMesh:
        """One dimension, or several in the order of the grid."""
        if isinstance(names, str) and names in self._flat:
            return self._flat[names]
        wanted = {names} if isinstance(names, str) else set(names)
        return next(view for view in self._views if wanted <= set(view.mesh_dim_names or ()))[names]
