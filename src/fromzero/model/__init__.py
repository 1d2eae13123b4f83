"""Batches -> logits: one composable decoder-only Transformer, GPT-2 and Llama among what it can be.

In: token ids (B, T). Out: logits (B, T, V), or the last hidden states (B, T, D) for a loss that never makes the logits.

Reading order: `functions` (each layer as a plain function, the reference that everything is tested against), `config`
(the shape), `layers`, `attention`, `transformer`, `initialize` (all random numbers in one place), `linear_loss` (the
cross-entropy that training uses), `presets`.
"""

from fromzero.model.block import Cache
from fromzero.model.config import ModelConfig
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.presets import PRESETS
from fromzero.model.transformer import Transformer

__all__ = ["PRESETS", "Cache", "EncoderDecoder", "ModelConfig", "Transformer"]
