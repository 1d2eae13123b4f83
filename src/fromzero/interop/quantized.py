"""Matrices in few bits in folders of ours: `NAME.codes`, `NAME.scale` and, in 4 bits, `NAME.minimum` for each.

The config says under `quantization` that there are such, and which version of the format it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromzero.errors import UserError
from fromzero.model.quantized import Packed, put, quantized

FORMAT = 1
CODES = ".codes"


def description(model: nn.Module) -> dict[str, Any]:
    """What a config says about a model's matrices in few bits: nothing when there are none."""
    kinds = {(matrix.packed.bits, matrix.packed.group) for _, matrix in quantized(model)}
    if not kinds:
        return {}
    return {"quantization": {"format": FORMAT, "kinds": [{"bits": b, "group": g} for b, g in sorted(kinds)]}}


def put_stored(model: nn.Module, raw: Mapping[str, Any], shapes: Mapping[str, list[int]], where: Path) -> None:
    """Put matrices in few bits, without numbers, where a file has them in the place of plain ones.

    model: as its config says, on the device meta. Raises UserError for those that don't fit.
    """
    if (said := raw.get("quantization")) is None:
        return
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise UserError(
            f"{where}: its config says quantization {said!s:.80}; known is format {FORMAT}; convert it anew"
        )
    for name in [name.removesuffix(CODES) for name in shapes if name.endswith(CODES)]:
        rows, inputs = _shape(model, name, where)
        groups = (shapes.get(f"{name}.scale") or [0])[-1]
        bits = 4 if f"{name}.minimum" in shapes else 8
        codes = [rows, inputs * bits // 8]
        if shapes[name + CODES] != codes or not groups or inputs % groups or inputs // groups % 2:
            raise UserError(f"{where}: '{name}' has {bits}-bit codes {shapes[name + CODES]} in {groups} groups a row, "
                            f"but the config says {rows} x {inputs} weights")  # fmt: skip
        scale = torch.empty(rows, groups, dtype=torch.float16, device="meta")
        kind = torch.uint8 if bits == 4 else torch.int8
        put(model, name, Packed(torch.empty(codes, dtype=kind, device="meta"), scale, scale if bits == 4 else None))


def _shape(model: nn.Module, name: str, where: Path) -> tuple[int, int]:
    """Rows and inputs of the plain matrix that has a name."""
    parent, _, leaf = name.rpartition(".")
    try:
        place = getattr(model.get_submodule(parent), leaf)
    except AttributeError:
        place = None
    weight = place.weight if isinstance(place, nn.Linear | nn.Embedding) else place
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        raise UserError(f"{where}: tensor '{name}{CODES}' has no place in a model of this config")
    return weight.shape[:-1].numel(), weight.shape[-1]
