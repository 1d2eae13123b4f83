"""Groups of parameters that are stepped alike."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from fromzero.training.settings import TrainConfig

_IN_BLOCK = re.compile(r"(^|\.)blocks?\.")
_SCORES = ("router.weight", "shared_gate.weight")

Named = Iterable[tuple[str, nn.Parameter]]


def is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Whether it takes hidden states to hidden states: a matrix in a block, or a stack of them."""
    return parameter.dim() >= 2 and _IN_BLOCK.search(name) is not None and not is_score(name)


def is_score(name: str) -> bool:
    """Whether it takes hidden states to a few scores."""
    return name.endswith(_SCORES)


def ratio(width: int, config: TrainConfig) -> float:
    """How many times as wide a model is as the one that the settings are for."""
    return width / config.base_width if config.parametrization == "mup" else 1.0


def rate_factor(name: str, parameter: nn.Parameter, config: TrainConfig, m: float) -> float:
    """By what muP multiplies the learning rate of a parameter, m times as wide as the base; see training/mup."""
    hidden, score = is_hidden(name, parameter), is_score(name)
    if config.optimizer == "sgd":
        return 1.0 if hidden else 1 / m if score else m
    if config.optimizer == "adafactor":
        return m**-0.5 if hidden else 1.0
    if config.optimizer == "muon" and hidden:
        return 1.0
    return 1 / m if hidden or score else 1.0


def split(named: Named, settings: Callable[[str, nn.Parameter], dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of the parameters that are trained and have the same settings, in the order in which these first come."""
    groups: list[dict[str, Any]] = []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        own = settings(name, parameter)
        group = next((g for g in groups if all(g[key] == value for key, value in own.items())), None)
        if group is None:
            groups.append(group := {"params": [], **own})
        group["params"].append(parameter)
    return groups
