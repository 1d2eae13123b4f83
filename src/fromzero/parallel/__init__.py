"""One model, many devices: who holds what, who computes what, and what they tell each other.

In: an objective (a module that holds the model and returns the summed loss of a micro-batch), a ParallelConfig and the
World that `torchrun` started. Out: a Fleet, whose `gradients` leaves in every rank's parameters what one process would
have found. All sums over ranks are sums, never means: the objective sums, and the fleet divides by the targets of the
whole batch.

Reading order: `config`, `world` (processes), `mesh`, `apply` (the one ordered page), `fleet`; then each kind: `data`,
`tensor`, `experts`, `context`, `pipeline`, and `norm`. `textbook/` has each of them from scratch, short, held equal.
"""

from fromzero.parallel.apply import parallelize
from fromzero.parallel.config import ParallelConfig
from fromzero.parallel.fleet import Fleet
from fromzero.parallel.world import World, join_world

__all__ = ["Fleet", "ParallelConfig", "World", "join_world", "parallelize"]
