"""Which matrices of a model may be in few bits, and all of them rounded to nearest."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.model.experts import Bank
from fromzero.model.layers import Embedding, Head, Linear
from fromzero.model.quantized import Bits, put, round_to_nearest

FewBits = Literal["none", "int8", "int4"]
TABLE_BITS: Bits = 8
"""Of the token embedding and the output matrix, which lose the most in 4."""
GROUP = 32
"""Inputs that share a scale, unless another number is given."""
LARGEST = 30000.0
"""Scales and minima are float16."""
SMALLEST_ROWS = 16
"""A layer with fewer outputs, such as a gate or a classifier, weighs nothing and stays as it is."""


class Rounded(NamedTuple):
    """A matrix that is to be in few bits."""

    name: str
    module: nn.Module
    """Whose it is."""
    weight_OI: Tensor
    bits: Bits


def matrices(model: nn.Module, bits: Bits, within: str = "") -> list[Rounded]:
    """All that are to be in few bits and are not yet, of a model or a part of it."""
    found = []
    for name, module in model.named_modules(prefix=within):
        if isinstance(module, Linear) and module.out_features >= SMALLEST_ROWS:
            found.append(Rounded(name, module, module.weight, bits))
        elif isinstance(module, Embedding) and name == "token_embedding":
            found.append(Rounded(name, module, module.weight, TABLE_BITS))
        elif isinstance(module, Head) and module.weight is not None:
            found.append(Rounded(f"{name}.weight", module, module.weight, TABLE_BITS))
        elif isinstance(module, Bank):
            parts = module.named_parameters()
            found += [Rounded(f"{name}.{part}", module, weight.flatten(0, 1), bits) for part, weight in parts]
    return found


def check_matrix(matrix: Rounded) -> None:
    """Raise UserError for weights that few bits can't hold."""
    if not matrix.weight_OI.abs().max() < LARGEST:  # nor is it when one is no number
        raise UserError(
            f"'{matrix.name}' has weights beyond {LARGEST:.0f}, or that are no numbers; it can't be quantised"
        )


def group_of(name: str, inputs: int, group: int = GROUP) -> int:
    """Halved until it divides the inputs of a layer. Raises UserError when they are not a multiple of 8."""
    if inputs % 8:
        raise UserError(f"'{name}' has {inputs} inputs, which are not whole groups of 8; it can't be quantised")
    while inputs % group:
        group //= 2
    return group


@torch.no_grad()
def round_model(model: nn.Module, kind: FewBits) -> None:
    """Put a model's matrices into few bits, in place, each weight to the nearest. Raises UserError."""
    for matrix in matrices(model, 4 if kind == "int4" else 8) if kind != "none" else ():
        check_matrix(matrix)
        group = group_of(matrix.name, matrix.weight_OI.shape[1])
        put(model, matrix.name, round_to_nearest(matrix.weight_OI, matrix.bits, group))
