"""AWQ (Lin et al. 2023): channels that inputs use most are made larger before rounding, so that they lose the least.

Multiplying column i of W by s_i and dividing input i by it changes nothing but what rounding does. s = m^a, with m_i
how large input i is (here its root mean square, that of the paper is the mean of |x|), and a from 0 to 1 searched for
the least error of the layer's output (eq. 4 and 5). The inputs are divided where they are made, so nothing is left to
do when the model runs: in the norm before queries, keys and values, and before the feed-forward layer; in the rows of
the values, before attention's output; in those of `up`, before `down`. Where an input is made in no such way, a is 0.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fromzero.model.attention import Attention
from fromzero.model.block import Block
from fromzero.model.layers import FeedForward, Linear, Norm

STEPS = 10
"""Values of a that are tried, from 0 on."""


class Place(NamedTuple):
    """Layers with the same input, and what makes it."""

    layers: list[Linear]
    source: Norm | Linear
    shape: tuple[int, int, int] = (1, 1, -1)
    """Inputs as (K, G, C): those of G query heads come from one head of values."""


def places(block: Block) -> Iterator[Place]:
    """The inputs that can be scaled, in the order in which they are made."""
    attention, feed = block.attention, block.feed_forward
    names = ("query", "key", "value", "query_down", "latent_down")
    first = [layer for name in names if (layer := getattr(attention, name, None)) is not None]
    second = [layer for layer in (feed.up, feed.gate) if layer] if isinstance(feed, FeedForward) else []
    if block.placement in ("pre", "sandwich"):
        parallel = block.feed_forward_norm is None
        if not parallel or second:
            yield Place([*first, *second] if parallel else first, block.attention_norm)
        if second and block.feed_forward_norm is not None:
            yield Place(second, block.feed_forward_norm)
    if isinstance(attention, Attention):
        shape = (attention.kv_heads, attention.heads // attention.kv_heads, attention.head_width)
        yield Place([attention.output], attention.value, shape)
    if isinstance(feed, FeedForward) and feed.gate is not None:
        yield Place([feed.down], feed.up)


@torch.no_grad()
def scale_block(block: Block, hessians: Mapping[nn.Module, Tensor], error: Callable[[Tensor, Tensor], float]) -> None:
    """Scale a block's weights, and the H of inputs with them.

    error: the squared error of a layer's output, for weights and the H of their inputs, once they are rounded.
    """
    for place in places(block):
        hessian_II = hessians[place.layers[0]]
        size_KC = hessian_II.diagonal().unflatten(0, place.shape).mean(1).sqrt()
        size_KC = size_KC.clamp(min=float(size_KC.mean()) * 1e-4 + 1e-30)
        best, chosen = float("inf"), torch.ones_like(size_KC)
        for step in range(STEPS):
            s_KC = size_KC ** (step / STEPS)
            s_KC = s_KC / (s_KC.amax() * s_KC.amin()).sqrt()
            s_I = _spread(s_KC, place.shape)
            scaled_II = hessian_II / torch.outer(s_I, s_I)
            total = sum(error(layer.weight * s_I, scaled_II) for layer in place.layers)
            if total < best:
                best, chosen = total, s_KC
        _fold(place, chosen)
        s_I = _spread(chosen, place.shape)
        for shared_II in {id(hessians[layer]): hessians[layer] for layer in place.layers}.values():
            shared_II.div_(torch.outer(s_I, s_I))


def _spread(s_KC: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """For each input, the factor of the channel that it comes from."""
    return s_KC[:, None].expand(-1, shape[1], -1).flatten()


def _fold(place: Place, s_KC: Tensor) -> None:
    for layer in place.layers:
        layer.weight.mul_(_spread(s_KC, place.shape))
    made = s_KC.flatten()
    place.source.weight.div_(made if place.source.weight.dim() == 1 else made[:, None])
    if place.source.bias is not None:
        place.source.bias.div_(made)
