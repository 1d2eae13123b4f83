"""How large a model is and how much work a token takes; weights are counted, so they may be on the meta device."""

import math
from collections.abc import Iterator

from torch import nn

from fromzero.model.config import ModelConfig
from fromzero.model.quantized import quantized

_TABLES = ("token_embedding.weight", "position_embedding.weight")
_LOOKED_UP = (*_TABLES, "type_embedding.weight", "relative_bias.weight", "head.weight")


def parameter_count(model: nn.Module, config: ModelConfig, embeddings: bool = True, active: bool = False) -> int:
    """Number of parameters, tied ones once; without the token and position tables, or with active experts only."""
    return sum(
        _active(name, size, config) if active else size
        for name, size, _ in _weights(model)
        if embeddings or not name.endswith(_TABLES)
    )


def flops_per_token(model: nn.Module, config: ModelConfig) -> float:
    """Floating-point operations of a forward and backward pass at full context, for a token.

    6 for each active weight of a matrix product, plus 6 for each channel of the keys and values that each layer looks
    at (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B). For an encoder-decoder: for a token of the
    source and one of the target together.
    """
    named = [(name, size) for name, size, matrix in _weights(model) if matrix and not name.endswith(_LOOKED_UP)]
    matrices = sum(_active(name, size, config) for name, size in named)
    matrices += (1 + config.predict_ahead) * config.vocab_size * config.width
    value_width = config.latent.value_width if config.latent else config.head_size
    return 6.0 * matrices + 6.0 * config.heads * (config.head_size + value_width) * _keys_seen(config)


def _weights(model: nn.Module) -> Iterator[tuple[str, int, bool]]:
    """Of each parameter, or matrix in few bits in its place: name, how many weights, and whether it is a matrix."""
    yield from ((name, parameter.numel(), parameter.dim() > 1) for name, parameter in model.named_parameters())
    for name, matrix in quantized(model):
        yield name.removesuffix(".weight") + ".weight", math.prod(matrix.packed.shape), True


def _active(name: str, size: int, config: ModelConfig) -> int:
    """Of a tensor's weights, how many one token is multiplied by."""
    experts = config.experts
    return size * experts.active // experts.count if experts and ".experts." in name else size


def _keys_seen(config: ModelConfig) -> float:
    """Keys that a token sees on average, all layers together."""
    whole, half = float(config.context), config.context / 2
    if config.kind == "encoder_decoder":
        return (config.encoder_layers or config.layers) * whole + config.layers * (half + whole)
    window = min(config.window or config.context, config.context)
    causal = config.kind == "decoder"
    everything = half if causal else whole
    near = window * (1 - window / (2 * whole)) if causal else min(2.0 * window, whole)
    layers = range(config.layers + config.predict_ahead)
    return sum(near if config.windowed(layer) else everything for layer in layers)
