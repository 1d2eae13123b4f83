"""Gradients -> steps: SGD, Adam, AdamW, Adafactor, Lion, Muon, each a `torch.optim.Optimizer` that is usable alone.

In: parameters, plain or sharded (DTensor). `make_optimizer` makes the one that a TrainConfig names, with its groups;
each group keeps the highest learning rate as `peak`, and `set_share` sets all rates to a share of it.

Reading order: `base`, `sgd` (and Lion), `adam`, `adafactor`, `muon`, `groups`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fromzero.training.optimizers.adafactor import Adafactor
from fromzero.training.optimizers.adam import Adam, AdamW
from fromzero.training.optimizers.base import Optimizer
from fromzero.training.optimizers.groups import is_hidden, rate_factor, ratio, split
from fromzero.training.optimizers.muon import Muon
from fromzero.training.optimizers.sgd import SGD, Lion
from fromzero.training.settings import TrainConfig

__all__ = ["SGD", "Adafactor", "Adam", "AdamW", "Lion", "Muon", "make_optimizer", "set_share"]


def make_optimizer(
    named: Iterable[tuple[str, nn.Parameter]], config: TrainConfig, width: int | None = None
) -> Optimizer:
    """The optimizer of named parameters that a config names. width: of the model, for muP."""
    m = ratio(width or config.base_width, config)

    def settings(name: str, parameter: nn.Parameter) -> dict[str, Any]:
        muon = config.optimizer == "muon" and is_hidden(name, parameter)
        factor = rate_factor(name, parameter, config, m)
        rate = config.matrix_learning_rate if muon else config.learning_rate
        decay = config.weight_decay if parameter.dim() >= 2 else 0.0
        if config.optimizer not in ("sgd", "adam"):
            decay /= factor
        return {"lr": rate * factor, "weight_decay": decay} | ({"use_muon": muon} if config.optimizer == "muon" else {})

    groups, betas = split(named, settings), (config.beta1, config.beta2)
    optimizer: Optimizer
    match config.optimizer:
        case "sgd":
            optimizer = SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0)
        case "adafactor":
            optimizer = Adafactor(groups)
        case "lion":
            optimizer = Lion(groups, betas=betas)
        case "muon":
            optimizer = Muon(groups, momentum=config.momentum, betas=betas)
        case "adam":
            optimizer = Adam(groups, betas=betas)
        case "adamw":
            optimizer = AdamW(groups, betas=betas)
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    return optimizer


def set_share(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group's learning rate to a share of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
