"""What a bigger run would take and reach, before it is begun.

In: the shape of a model. Out: parameters, arithmetic and memory, by `estimate`.
"""

from fromzero.scaling.estimate import EstimateConfig, estimate

__all__ = ["EstimateConfig", "estimate"]
