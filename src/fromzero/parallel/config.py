"""How many devices share what."""

import math
from dataclasses import dataclass
from typing import Literal

from fromzero.errors import UserError

DIMENSIONS = ("pipeline", "replicate", "shard", "context", "tensor")
"""Of the mesh, the outermost first: what talks most sits on neighbouring ranks."""


@dataclass(frozen=True)
class ParallelConfig:
    """How many devices share what; their product is the number of processes."""

    replicate: int = 0
    """Copies of the weights that see different data; 0 takes the processes that the others leave over."""
    shard: int = 1
    """Devices that share weights, gradients and optimizer states, and see different data (FSDP; with replicate, HSDP).
    0 takes the processes that the others leave over, before replicate does."""
    tensor: int = 1
    """Devices that share each matrix (tensor parallelism)."""
    sequence: bool = True
    """With tensor: between the matrices, each device has a part of the sequence."""
    pipeline: int = 1
    """Devices that share the layers, one after another."""
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero_bubble"] = "1f1b"
    """Order of forward and backward passes in the pipeline."""
    stages: int = 2
    """Stages on each device, for the schedules interleaved and zero_bubble."""
    context: int = 1
    """Devices that share each sequence (ring attention)."""
    expert: int = 1
    """Devices, of those of shard, that share the experts of a mixture."""
    timeout: float = 600.0
    """Seconds that a rank waits for another before the run ends and names the one that hangs."""

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "stages", "context", "expert"):
            if getattr(self, name) < 1:
                raise UserError(f"parallel.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("replicate", "shard"):
            if getattr(self, name) < 0:
                raise UserError(f"parallel.{name} is {getattr(self, name)}; it must be at least 0")
        if not self.timeout > 0:
            raise UserError(f"parallel.timeout is {self.timeout}; it must be above 0 seconds")

    def sizes(self, world_size: int) -> dict[str, int]:
        """Size of each dimension of the mesh. Raises UserError when their product is not the number of processes."""
        sizes = {name: getattr(self, name) or 1 for name in DIMENSIONS}
        known = math.prod(sizes.values())
        if 0 in (self.replicate, self.shard):
            free = "replicate" if self.shard else "shard"
            sizes[free] = max(1, world_size // known)
            known *= sizes[free]
        if known != world_size:
            named = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "1 process"
            raise UserError(
                f"parallel: {named} needs {known} processes, but there are {world_size}; change the sizes, or start it "
                f"with: torchrun --nproc-per-node {known} -m fromzero ..."
            )
        if sizes["shard"] % self.expert:
            raise UserError(f"parallel.expert ({self.expert}) does not divide parallel.shard ({sizes['shard']})")
        return sizes
