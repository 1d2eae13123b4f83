"""The modules whose weights are plain tensors: linear, embedding, norm, feed-forward.

Weights are kept in fp32 and cast to the dtype of the input where they are used, so the compute dtype is the dtype of
the residual stream and nothing else (no autocast, no global default).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromzero.model import functions
from fromzero.model.config import ModelConfig
from fromzero.model.fast_norm import fast_rms_norm

# Torch's own kernels where it has them; each is tested equal to its plain form in `functions`.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu_squared": functions.relu_squared,
}


class Linear(nn.Module):
    """y = x W^T + b, with W (out, in) in fp32, computed in the dtype of x."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Embedding(nn.Module):
    """A row of W (rows, D) for each id, in fp32."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension, with a learned scale (and, for LayerNorm, a shift)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind, self.eps = config.norm, config.norm_eps
        self.weight = nn.Parameter(torch.empty(config.width))
        self.bias = nn.Parameter(torch.empty(config.width)) if config.norm == "layer" and config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            return fast_rms_norm(x, self.weight, self.eps)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), bias, self.eps)


class FeedForward(nn.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) with a gate; (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.up = Linear(config.width, config.ffn_size, config.bias)
        self.gate = Linear(config.width, config.ffn_size, config.bias) if config.gated else None
        self.down = Linear(config.ffn_size, config.width, config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(self.activation(self.up(x_BTD)))
        return self.down(self.activation(self.gate(x_BTD)) * self.up(x_BTD))
