"""Who sees whom: what attention needs to know beside its queries, keys and values.

Made once for all layers alike. Plain causal attention has no mask at all, which is what torch's kernels are fastest at.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromzero.model.config import ModelConfig
from fromzero.model.documents import WithinDocuments
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
    """Rotary cos and sin for all heads alike, (T, 1, R) or (B, T, 1, R)."""
    attend: Callable[..., Tensor] | None = None
    """Does it in place of attention.attend, with its arguments but the scene: where keys are on several devices."""


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
    keep_BT: Tensor | None = None
    """True for real tokens, of those in the cache too: (B, S)."""
    positions_BT: Tensor | None = None
    prefix_B: Tensor | None = None
    documents_BT: Tensor | None = None
    """The number of the document that each token is of; tokens see their own only."""
    attend: Callable[..., Tensor] | None = None
    """See Scene; it knows itself who sees whom."""

    @property
    def positions(self) -> slice | Tensor:
        """Where the new tokens are: as given, or counted among those to keep, or simply one after the other."""
        if self.positions_BT is None and self.keep_BT is None:
            return slice(self.start, self.start + self.count)
        return self._counted()[:, -self.count :] if self.positions_BT is None else self.positions_BT

    def distances(self, keys: int) -> Tensor:
        """Key's place - query's place, (T, S), for the last S = `keys` tokens."""
        places_S = torch.arange(keys, device=self.device)
        return places_S - places_S[-self.count :, None]

    def visible(self, keys: int, causal: bool, window: int | None) -> Tensor:
        """Boolean mask (B or 1, 1, T, S) of the last S = `keys` tokens, True where a query attends."""
        distance_TS = self.distances(keys)
        seen_BTS = (distance_TS <= 0 if causal else torch.ones_like(distance_TS, dtype=torch.bool))[None]
        if self.prefix_B is not None:
            seen_BTS = seen_BTS | (self._counted()[:, None, -keys:] < self.prefix_B[:, None, None])
        if window is not None:
            seen_BTS = seen_BTS & (distance_TS.abs() < window)
        if self.keep_BT is not None:  # padding sees itself: a softmax over nothing is no number
            seen_BTS = (seen_BTS & self.keep_BT[:, None, -keys:]) | (distance_TS == 0)
        if self.documents_BT is not None:
            seen_BTS = seen_BTS & (self.documents_BT[:, :, None] == self.documents_BT[:, None, -keys:])
        return seen_BTS[:, None]

    def _counted(self) -> Tensor:
        """Positions (B or 1, S) of all tokens, those in the cache too; padding on the left is at 0."""
        if self.keep_BT is None:
            return torch.arange(self.start + self.count, device=self.device)[None]
        return (self.keep_BT.cumsum(-1) - 1).clamp(min=0)


def make_scene(
    config: ModelConfig,
    tokens: Tokens,
    causal: bool,
    windowed: bool = False,
    angles: tuple[Tensor, Tensor] | None = None,
    table: Tensor | None = None,
    heads: slice = slice(None),
) -> Scene:
    """The scene of the layers with a window, or of those without; table: T5's biases (buckets, H) of some heads."""
    total, window = tokens.start + tokens.count, config.window if windowed else None
    keys = min(total, tokens.count + window - 1) if causal and window is not None else total
    if window is not None and keys <= window:
        window = None
    if tokens.attend is not None:
        return Scene(keys, causal, angles=angles, attend=tokens.attend)
    whole = window is None and tokens.keep_BT is None
    biased = table is not None or config.positions == "alibi"
    if tokens.documents_BT is not None:
        written_out = biased or config.sinks or config.attention_softcap is not None
        if whole and not written_out and tokens.prefix_B is None and total == tokens.count:
            alone = WithinDocuments(tokens.documents_BT, causal, lambda: tokens.visible(keys, causal, None))
            return Scene(keys, causal, angles=angles, attend=alone)
        whole = False
    everything = whole and (tokens.count == 1 or not causal)
    triangle = whole and not everything and not biased and tokens.prefix_B is None and total == tokens.count
    mask = None if everything or triangle else tokens.visible(keys, causal, window)
    if biased:
        bias_BHTS = score_bias(config, table, tokens.distances(keys), not causal, heads)[None]
        mask = bias_BHTS if mask is None else bias_BHTS.masked_fill(~mask, float("-inf"))
    return Scene(keys, triangle, mask, angles)


def score_bias(
    config: ModelConfig, table: Tensor | None, distance_TS: Tensor, both_ways: bool, heads: slice = slice(None)
) -> Tensor:
    """What positions add to scores of some heads (H, T, S): T5's learned `table`, or ALiBi's slopes (Press 2021)."""
    if table is None:
        slopes_H = torch.tensor(alibi_slopes(config.heads)[heads], device=distance_TS.device)
        return -slopes_H[:, None, None] * distance_TS.abs()
    buckets_TS = relative_buckets(distance_TS, config.relative_buckets, config.relative_distance, both_ways)
    return table[buckets_TS].movedim(-1, 0)
