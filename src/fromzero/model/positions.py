"""How tokens know where they are: rotary and sinusoidal angles, ALiBi's slopes, T5's buckets of distances."""

import math

import torch
from torch import Tensor

from fromzero.model import functions
from fromzero.model.config import RopeScaling

_SMALLEST_TABLE = 256


class Angles:
    """cos and sin by position, in tables that grow as far as they are needed, on each device that asks.

    Plain tensors, not buffers: they are no part of a model's state, and need no room for a context of a million.
    """

    def __init__(self, width: int, base: float, context: int, scaling: RopeScaling | None = None) -> None:
        self._width, self._base, self._context, self._scaling = width, base, context, scaling
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def at(self, positions: slice | Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin in fp32 (T, width / 2), or (B, T, width / 2) for positions (B, T)."""
        rows = self._context
        if isinstance(positions, slice):  # how far a tensor reaches only the device knows
            rows = min(rows, max(_SMALLEST_TABLE, 1 << (positions.stop - 1).bit_length()))
        if device not in self._tables or len(self._tables[device][0]) < rows:
            self._tables[device] = self._made(rows, device)
        cos, sin = self._tables[device]
        return cos[positions], sin[positions]

    @torch.inference_mode(False)  # a table made while generating is used in training too
    def _made(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        frequencies_R = scaled_frequencies(self._width, self._base, self._scaling)
        cos, sin = functions.rotary_angles(torch.arange(rows, device="cpu"), frequencies_R)
        factor = attention_factor(self._scaling)
        return (cos * factor).to(device), (sin * factor).to(device)


def attention_factor(scaling: RopeScaling | None) -> float:
    """What YaRN multiplies cos and sin by, so that attention stays as sharp as it was (Peng et al. 2023, eq. 22)."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    return 0.1 * math.log(scaling.factor) + 1 if scaling.attention_factor is None else scaling.attention_factor


def scaled_frequencies(width: int, base: float, scaling: RopeScaling | None) -> Tensor:
    """Rotary frequencies (width / 2,) in fp64, stretched to reach further."""
    if scaling is not None and scaling.kind == "ntk":
        base *= scaling.factor ** (width / (width - 2))
    plain_R = functions.rotary_frequencies(width, base)
    if scaling is None or scaling.kind == "ntk":
        return plain_R
    if scaling.kind == "linear":
        return plain_R / scaling.factor
    kept_R = _kept_by_yarn(width, base, scaling) if scaling.kind == "yarn" else _kept_by_llama3(plain_R, scaling)
    return plain_R * kept_R + plain_R / scaling.factor * (1 - kept_R)


def _kept_by_yarn(width: int, base: float, scaling: RopeScaling) -> Tensor:
    """Share of each frequency that is not divided: a ramp over the index of the pair (eq. 17 and 18)."""

    def pair_that_turns(times: float) -> float:
        return width * math.log(scaling.original_context / (times * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), width - 1)
    pairs_R = torch.arange(width // 2, dtype=torch.float64, device="cpu")
    return 1 - ((pairs_R - low) / max(high - low, 0.001)).clamp(0, 1)


def _kept_by_llama3(frequencies_R: Tensor, scaling: RopeScaling) -> Tensor:
    """The same by how often a pair turns within the original context, with a ramp between two bounds."""
    turns_R = scaling.original_context * frequencies_R / (2 * math.pi)
    low, high = scaling.low_frequency, scaling.high_frequency
    return ((turns_R - low) / (high - low)).clamp(0, 1)


def alibi_slopes(heads: int) -> list[float]:
    """Each head's penalty by distance: 2^(-8i/H); counts that are no powers of 2 borrow from 2H (Press 2021)."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    return slopes + [2 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)]


def relative_buckets(distances: Tensor, buckets: int, furthest: int, both_ways: bool) -> Tensor:
    """Bucket of each distance key - query (Raffel et al. 2020, section 2.1), as integers.

    Near distances have one each, further ones share in steps of a logarithm; both_ways: half of them are for keys
    that come after the query, else those count as distance 0.
    """
    offset = torch.zeros_like(distances)
    if both_ways:
        buckets //= 2
        offset = (distances > 0) * buckets
    far = distances.abs() if both_ways else (-distances).clamp(min=0)
    exact = buckets // 2
    steps = torch.log(far.clamp(min=1).float() / exact) / math.log(furthest / exact) * (buckets - exact)
    return offset + torch.where(far < exact, far, (exact + steps.long()).clamp(max=buckets - 1))
