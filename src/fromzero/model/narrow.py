"""Weights in the dtype in which they are multiplied: for a model that runs and is not trained."""

import torch

from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.experts import Bank
from fromzero.model.layers import Head, Linear
from fromzero.model.transformer import Transformer


def to_compute(model: Transformer | EncoderDecoder, dtype: torch.dtype) -> None:
    """Compute in `dtype`, and keep matrices in it: they are cast once, not at every product.

    Norms, routers, positions and what is in few bits stay as they are. Numbers are as with the same compute dtype
    and weights in fp32, but for products that a CPU does in fp32 (see wide_linear) and then does in `dtype`.
    """
    model.compute_dtype = dtype
    for module in model.modules():
        if isinstance(module, Linear | Head | Bank) or module is model.token_embedding:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
