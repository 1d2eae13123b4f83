"""Groups of parameters that are stepped alike."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

_IN_BLOCK = re.compile(r"(^|\.)blocks?\.")
_SCORES = ("router.weight", "shared_gate.weight")

Named = Iterable[tuple[str, nn.Parameter]]


def is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Whether it takes hidden states to hidden states: a matrix in a block, or a stack of them, but no router."""
    return parameter.dim() >= 2 and _IN_BLOCK.search(name) is not None and not name.endswith(_SCORES)


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
