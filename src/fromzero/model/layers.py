"""The modules whose weights are plain tensors: linear, embedding, norm, feed-forward, output.

Weights are kept in fp32 and cast to the dtype of the input where they are used, so the compute dtype is the dtype of
the residual stream and nothing else (no autocast, no global default).
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromzero.model import functions
from fromzero.model.config import ModelConfig
from fromzero.model.fast_norm import fast_rms_norm
from fromzero.model.float8 import float8_linear
from fromzero.model.linear_loss import linear_cross_entropy, linear_logprobs, linear_nats
from fromzero.model.quantized import Matrix, QuantizedMatrix, linear, numbers
from fromzero.model.wide_linear import product_dtype, wide_linear, widened

# Torch's own kernels where it has them; each is tested equal to its plain form in `functions`.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
    "relu_squared": functions.relu_squared,
}


class Linear(nn.Linear):
    """y = x W^T + b, with W (out, in) in fp32, computed in the dtype of x."""

    float8 = False
    """Whether products are in 8 bits while it is trained."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias)

    def reset_parameters(self) -> None:
        """Nothing: `initialize` fills all weights of a model, and torch should not draw them first."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.float8 and self.training:
            return float8_linear(x, weight, bias)
        if widened(x.dtype, x.device.type):
            return wide_linear(x, weight, bias)
        if x.dtype == weight.dtype:
            return F.linear(x, weight, bias)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class Embedding(nn.Embedding):
    """A row of W (rows, D) for each id, in fp32."""

    def reset_parameters(self) -> None:
        """Nothing, as for Linear."""


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension, with a learned scale (and, for LayerNorm, a shift)."""

    def __init__(self, config: ModelConfig, width: int | None = None, rms: bool = False) -> None:
        """Over `width` channels, or the model's; rms: RMSNorm whatever the model's kind is."""
        super().__init__()
        self.kind, self.eps = "rms" if rms else config.norm, config.norm_eps
        self.weight = nn.Parameter(torch.empty(width or config.width))
        biased = self.kind == "layer" and config.bias
        self.bias = nn.Parameter(torch.empty(width or config.width)) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            return fast_rms_norm(x, self.weight, self.eps)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), bias, self.eps)


class FeedForward(nn.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) with a gate; (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, hidden: int | None = None) -> None:
        """`hidden`: size between, or the model's ffn_size."""
        super().__init__()
        hidden = hidden or config.ffn_size
        self.activation = ACTIVATIONS[config.activation]
        self.up = Linear(config.width, hidden, config.bias)
        self.gate = Linear(config.width, hidden, config.bias) if config.gated else None
        self.down = Linear(hidden, config.width, config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(self.activation(self.up(x_BTD)))
        return self.down(self.activation(self.gate(x_BTD)) * self.up(x_BTD))


class Head(nn.Module):
    """Hidden states (..., D) -> logits (..., V), by a matrix of its own or by the token embedding's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale, self.softcap = config.logit_scale, config.logit_softcap
        self.weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.bias = nn.Parameter(torch.empty(config.vocab_size)) if config.head_bias else None

    def matrix(self, embedding: nn.Module) -> Matrix:
        """The output matrix (V, D): its own, or that of the token embedding when they are tied."""
        if self.weight is not None:
            return self.weight
        return embedding if isinstance(embedding, QuantizedMatrix) else cast(Embedding, embedding).weight

    def forward(self, x: Tensor, weight_VD: Matrix) -> Tensor:
        """`weight_VD` is the matrix to use: the model knows which."""
        factor = self.scale / (self.softcap or 1.0)
        x = x if factor == 1 else x * factor  # there are fewer of these than of logits
        logits = linear(x, weight_VD, None if self.bias is None else self.bias.to(x.dtype) * factor)
        return logits if self.softcap is None else logits.tanh_() * self.softcap

    def loss(self, x_ND: Tensor, weight_VD: Matrix, targets_N: Tensor) -> Tensor:
        """Sum of -log p(target) in nats over targets that are not -100, fp32 scalar."""
        return linear_cross_entropy(
            x_ND,
            numbers(weight_VD, product_dtype(x_ND)),
            targets_N,
            bias_V=self.bias,
            scale=self.scale,
            softcap=self.softcap,
        )

    def nats(self, x_ND: Tensor, weight_VD: Matrix, targets_N: Tensor) -> Tensor:
        """The same of each row, (N,) in fp32, without gradients."""
        return linear_nats(
            x_ND, numbers(weight_VD, product_dtype(x_ND)), targets_N, self.bias, self.scale, self.softcap
        )

    def logprobs(self, x_ND: Tensor, weight_VD: Matrix, targets_N: Tensor, temperature: float = 1.0) -> Tensor:
        """log p(target) of each row at a temperature, (N,) in fp32, 0 where the target is -100; with gradients."""
        return linear_logprobs(x_ND, weight_VD, targets_N, self.bias, self.scale, self.softcap, temperature)
