"""Maximal update parametrization: what is best for a narrow model is best for a wide one (Yang et al. 2022).

Table 8 of the paper, the form that lets embedding and output share a matrix. With m = width / base width:

| | deviation of new weights | rate of Adam, AdamW, Lion | rate of SGD |
|---|---|---|---|
| matrices of hidden states | 1 / sqrt(m) | 1 / m | 1 |
| router, gate (few outputs; table 3) | 1 / m | 1 / m | 1 / m |
| embeddings, output, norms, biases | 1 | 1 | m |

Logits are divided by m, and attention's scores by the width of a head instead of its root, 8 / width, which is the same
at 64. Muon's steps fit all widths as they are; Adafactor's are relative to weights, which makes up for a root of m.
Decoupled decay is divided by the factor of the rate, so that it stays what it was. All sizes of a block should grow
with the width.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.model.attention import Attention
from fromzero.model.latent_attention import LatentAttention
from fromzero.training.optimizers.groups import is_hidden, is_score, ratio
from fromzero.training.settings import TrainConfig


def parametrized(config: ModelConfig, train: TrainConfig) -> ModelConfig:
    """The shape with the factors of attention and logits. Raises UserError where they could not be taken back."""
    if train.parametrization == "standard":
        return config
    if config.kind != "decoder" or config.norm_placement == "post":
        raise UserError(
            "train.parametrization mup is for decoders with a last norm, which takes up its factor of logits"
        )
    scale = (config.attention_scale or config.head_size**-0.5) * _attention_factor(config)
    return replace(config, attention_scale=scale, logit_scale=config.logit_scale * train.base_width / config.width)


@torch.no_grad()
def scale_weights(model: nn.Module, width: int, train: TrainConfig) -> None:
    """Give new weights the deviations of the table."""
    m = ratio(width, train)
    for name, parameter in model.named_parameters():
        if is_hidden(name, parameter):
            parameter.mul_(m**-0.5)
        elif is_score(name):
            parameter.mul_(1 / m)


@torch.no_grad()
def fold(model: Transformer, config: ModelConfig) -> None:
    """Put the factors into the weights, so that the shape is `config` again, as it was before `parametrized`."""
    if model.config == config:
        return
    for module in model.modules():
        if isinstance(module, Attention | LatentAttention):
            latent = isinstance(module, LatentAttention)
            last = (module.query_up if latent else module.query_norm) or module.query  # what makes queries, at the end
            assert isinstance(last, nn.Module)
            _multiply(last.parameters(), _attention_factor(config))
            module.scale = config.head_size**-0.5 if latent and not config.attention_scale else config.attention_scale
    assert model.final_norm is not None
    logits = [*model.final_norm.parameters(), *([] if model.head.bias is None else [model.head.bias])]
    _multiply(logits, model.config.logit_scale / config.logit_scale)
    model.config, model.head.scale = config, config.logit_scale


def _multiply(parameters: Iterable[nn.Parameter], factor: float) -> None:
    for parameter in parameters:
        parameter.mul_(factor)


def _attention_factor(config: ModelConfig) -> float:
    """8 / width of a head, over 1 / its root."""
    return 8 * config.head_size**-0.5
