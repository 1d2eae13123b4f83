"""What a bigger run would take and reach, before it is begun.

In: the shape of a model. Out: parameters, arithmetic and memory, by `estimate`; with the settings of its training
also time and cost, by `estimate_training`.
"""

from fromzero.scaling.estimate import EstimateConfig, estimate, estimate_training

__all__ = ["EstimateConfig", "estimate", "estimate_training"]
