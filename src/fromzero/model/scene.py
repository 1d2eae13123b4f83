"""Who sees whom: what attention needs to know beside its queries, keys and values.

Made once for all layers alike. Plain causal attention has no mask at all, which is what torch's kernels are fastest at.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromzero.model.config import ModelConfig
from fromzero.model.positions import alibi_slopes, relative_buckets


@dataclass(frozen=True)
class Scene:
    """What a layer's queries see."""

    keys: int
    """The last so many keys; those before are out of every query's window."""
    causal: bool = False
    """As many queries as keys, and each sees itself and what is before it; no mask then."""
    mask_BHTS: Tensor | None = None
    """Boolean, True means attend, or numbers to add to the scores; B and H may be 1."""
    angles: tuple[Tensor, Tensor] | None = None
    """Rotary cos and sin, (T, R) or (B, T, R)."""


@dataclass
class Memory:
    """What the cross-attention of a decoder looks at: the states of an encoder."""

    states_BSD: Tensor
    keep_BS: Tensor | None = None
    """True for the states of real tokens; None: all are."""
    pairs: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values of each layer, filled in at first use: they serve every later token."""

    def scene(self) -> Scene:
        """All queries see all states that are to be kept."""
        return Scene(self.states_BSD.shape[1], mask_BHTS=None if self.keep_BS is None else self.keep_BS[:, None, None])


@dataclass(frozen=True)
class Tokens:
    """The tokens that a model is given, and what is known about them."""

    start: int
    """Tokens in the cache, before these."""
    count: int
    device: torch.device
    keep_BS: Tensor | None = None
    positions_BT: Tensor | None = None
    prefix_B: Tensor | None = None

    @property
    def positions(self) -> slice | Tensor:
        """Where the new tokens are: as given, or counted among those to keep, or simply one after the other."""
        if self.positions_BT is not None:
            return self.positions_BT
        if self.keep_BS is not None:
            return self.counted()[:, -self.count :]
        return slice(self.start, self.start + self.count)

    def counted(self) -> Tensor:
        """Positions (B or 1, S) of all tokens, those in the cache too; padding on the left is at 0."""
        if self.keep_BS is None:
            return torch.arange(self.start + self.count, device=self.device)[None]
        return (self.keep_BS.cumsum(-1) - 1).clamp(min=0)


def visible(tokens: Tokens, keys: int, causal: bool, window: int | None) -> Tensor:
    """Boolean mask (B or 1, 1, T, S) of the last S = `keys` tokens, True where a query attends."""
    distance_TS = distances(tokens, keys)  # key - query
    seen_BTS = (distance_TS <= 0 if causal else torch.ones_like(distance_TS, dtype=torch.bool))[None]
    if tokens.prefix_B is not None:
        seen_BTS = seen_BTS | (tokens.counted()[:, None, -keys:] < tokens.prefix_B[:, None, None])
    if window is not None:
        seen_BTS = seen_BTS & (distance_TS.abs() < window)
    if tokens.keep_BS is not None:  # padding sees itself: a softmax over nothing is no number
        seen_BTS = (seen_BTS & tokens.keep_BS[:, None, -keys:]) | (distance_TS == 0)
    return seen_BTS[:, None]


def distances(tokens: Tokens, keys: int) -> Tensor:
    """Key's place - query's place, (T, S), for the last S = `keys` tokens."""
    places_S = torch.arange(keys, device=tokens.device)
    return places_S - places_S[-tokens.count :, None]


def score_bias(config: ModelConfig, table: Tensor | None, tokens: Tokens, keys: int, causal: bool) -> Tensor | None:
    """What positions add to the scores (H, T, S): ALiBi's slopes, or T5's learned `table` (buckets, H)."""
    if table is not None:
        buckets_TS = relative_buckets(
            distances(tokens, keys), config.relative_buckets, config.relative_distance, not causal
        )
        return table[buckets_TS].movedim(-1, 0)
    if config.positions == "alibi":
        slopes_H = torch.tensor(alibi_slopes(config.heads), device=tokens.device)
        return -slopes_H[:, None, None] * distances(tokens, keys).abs()
    return None


def make_scene(
    config: ModelConfig,
    tokens: Tokens,
    causal: bool,
    window: int | None,
    angles: tuple[Tensor, Tensor] | None,
    table: Tensor | None,
    dtype: torch.dtype,
) -> Scene:
    """The scene of the layers with that window (None: without); `dtype` is that of the scores' bias."""
    total = tokens.start + tokens.count
    keys = min(total, tokens.count + window - 1) if causal and window is not None else total
    if window is not None and keys <= window:
        window = None
    bias_HTS = score_bias(config, table, tokens, keys, causal)
    whole = window is None and tokens.keep_BS is None
    everything = whole and (tokens.count == 1 or not causal)
    triangle = whole and tokens.prefix_B is None and total == tokens.count
    if bias_HTS is None and (everything or triangle):
        return Scene(keys, not everything, None, angles)
    mask = None if everything else visible(tokens, keys, causal, window)
    if bias_HTS is not None:
        bias_BHTS = bias_HTS[None].to(dtype)
        mask = bias_BHTS if mask is None else bias_BHTS.masked_fill(~mask, float("-inf"))
    return Scene(keys, False, mask, angles)
