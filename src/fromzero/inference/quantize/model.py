"""All matrices of a model in few bits, layer by layer.

For GPTQ and AWQ, windows of text go through the model a block at a time: of each layer's inputs X only H = X^T X is
kept, the block is quantised, and what the quantised block makes of the windows goes on to the next one. In memory are
the hidden states of the windows, and the H of one block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.inference.quantize.awq import scale_block
from fromzero.inference.quantize.gptq import gptq
from fromzero.model import EncoderDecoder, Transformer
from fromzero.model.block import Block, Section
from fromzero.model.layers import Linear
from fromzero.model.quantized import Bits, put, quantized, round_to_nearest
from fromzero.model.rounding import GROUP, Rounded, check_matrix, group_of, matrices

Method = Literal["rtn", "gptq", "awq"]


@dataclass(frozen=True)
class QuantizeConfig:
    """How weights become few bits."""

    bits: Bits = 4
    method: Method = "rtn"
    """rtn: round to nearest. gptq, awq: with text that shows what inputs are like; experts are rounded to nearest."""
    group: int = GROUP
    """Inputs that share a scale; halved for a layer until it divides the layer's inputs."""


@dataclass(frozen=True)
class LayerReport:
    """What became of a matrix."""

    name: str
    bits: Bits
    group: int
    error: float
    """|X (W - Q)^T| / |X W^T| over the calibration text (Frobenius norms), |W - Q| / |W| where there is none."""


@torch.no_grad()
def quantize_model(
    model: Transformer | EncoderDecoder, config: QuantizeConfig, calibration_NT: Tensor | None = None
) -> list[LayerReport]:
    """Put a model's matrices into few bits, in place; norms, routers, biases and positions stay as they are.

    calibration: ids of N windows of text, for gptq and awq; rtn only reports errors on them.
    Raises UserError for widths that can't be cut into groups, and for what a method can't do.
    """
    if next(quantized(model), None):
        raise UserError("the weights are in few bits already; start from the model that they were made from")
    if config.group < 8 or config.group & (config.group - 1):
        raise UserError(f"a group of {config.group} inputs won't do; choose a power of two such as 32, 64 or 128")
    if config.method != "rtn" and calibration_NT is None:
        raise UserError(f"{config.method} needs calibration text, to see what inputs are like")
    model.eval()
    reports: list[LayerReport] = []
    if calibration_NT is not None:
        if not isinstance(model, Transformer):
            raise UserError("an encoder-decoder can only be rounded: choose the method rtn, without calibration")
        reports = _block_by_block(model, config, calibration_NT.to(model.device))
    return reports + [_quantize(model, matrix, None, config) for matrix in matrices(model, config.bits)]


def _block_by_block(model: Transformer, config: QuantizeConfig, ids_NT: Tensor) -> list[LayerReport]:
    reports, windows = [], list(ids_NT.split(1))
    try:
        hidden = [_through(model, range(0), ids_BT, None) for ids_BT in windows]
        for number, block in enumerate(model.blocks):
            layers = range(number, number + 1)
            with _observed(block) as hessians:
                for ids_BT, x_BTD in zip(windows, hidden, strict=True):
                    _through(model, layers, ids_BT, x_BTD)
            reports += _quantize_block(model, number, hessians, config)
            hidden = [_through(model, layers, *given) for given in zip(windows, hidden, strict=True)]
    finally:
        model.section = None
    return reports


def _through(model: Transformer, layers: range, ids_BT: Tensor, x_BTD: Tensor | None) -> Tensor:
    """Hidden states after some layers, of those before them, or of embedded tokens."""
    model.section = Section(layers, x_BTD, last=False)
    return model.hidden(ids_BT)


@contextmanager
def _observed(block: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """X^T X of the inputs that each linear layer has meanwhile; layers with the same input share one tensor."""
    found: dict[nn.Module, Tensor] = {}
    last: list[Any] = [None, None]

    def note(layer: nn.Module, given: tuple[Tensor]) -> None:
        if given[0] is last[0]:
            found[layer] = found[last[1]]
            return
        last[:] = given[0], layer
        x_NI = given[0].flatten(0, -2).float()
        found[layer] = found[layer].addmm_(x_NI.T, x_NI) if layer in found else x_NI.T @ x_NI

    hooks = [layer.register_forward_pre_hook(note) for layer in block.modules() if isinstance(layer, Linear)]
    yield found
    for hook in hooks:
        hook.remove()


def _quantize_block(
    model: Transformer, number: int, hessians: dict[nn.Module, Tensor], config: QuantizeConfig
) -> list[LayerReport]:
    name = f"blocks.{number}"
    block = model.get_submodule(name)

    def error(weight_OI: Tensor, hessian_II: Tensor) -> float:
        rounded = round_to_nearest(weight_OI, config.bits, group_of(name, weight_OI.shape[1], config.group))
        return _squared(weight_OI - rounded.unpacked(), hessian_II)

    if config.method == "awq" and isinstance(block, Block):
        scale_block(block, hessians, error)
    found = matrices(block, config.bits, name)
    return [_quantize(model, matrix, hessians.get(matrix.module), config) for matrix in found]


def _quantize(model: nn.Module, matrix: Rounded, hessian_II: Tensor | None, config: QuantizeConfig) -> LayerReport:
    """Put a matrix into few bits, and say how near it is."""
    name, _, weight_OI, bits = matrix
    check_matrix(matrix)
    group = group_of(name, weight_OI.shape[1], config.group)
    if config.method == "gptq" and hessian_II is not None:
        packed = gptq(weight_OI, hessian_II, bits, group)
    else:
        packed = round_to_nearest(weight_OI, bits, group)
    changed, whole = (_squared(w_OI, hessian_II) for w_OI in (weight_OI - packed.unpacked(), weight_OI))
    put(model, name, packed)
    return LayerReport(name, bits, group, (max(changed, 0.0) / max(whole, 1e-30)) ** 0.5)


def _squared(weight_OI: Tensor, hessian_II: Tensor | None) -> float:
    """|X W^T|^2 = tr(W H W^T), with H = I where it is not known."""
    return float((weight_OI if hessian_II is None else weight_OI @ hessian_II).mul(weight_OI).sum())
