"""Gradients -> steps: SGD, Adam, AdamW, Adafactor, Lion, Muon, each a `torch.optim.Optimizer` that is usable alone.

In: parameters, plain or sharded (DTensor). `make_optimizer` makes the one that a TrainConfig names, with its groups;
each group keeps the highest learning rate as `peak`, and `set_share` sets all rates to a share of it.
"""

from collections.abc import Iterable

import torch
from torch import nn

from fromzero.training.optimizers.adam import AdamW, clip_gradients, decay_groups
from fromzero.training.settings import TrainConfig

__all__ = ["AdamW", "clip_gradients", "decay_groups", "make_optimizer", "set_share"]


def make_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of named parameters that a config names."""
    groups = decay_groups(parameters, config.weight_decay)
    optimizer = AdamW(groups, config.learning_rate, (config.beta1, config.beta2))
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    return optimizer


def set_share(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group's learning rate to a share of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
