"""Batches -> logits: one composable Transformer, which is GPT-2, Llama, BERT, T5 or DeepSeek as its config says.

In: token ids (B, T). Out: logits (B, T, V), or the last hidden states (B, T, D) for a loss that never makes the logits.

Reading order: `functions` (each layer as a plain function, the reference that everything is tested against), `config`
(the shape), `layers`, `positions`, `scene` (who sees whom), `textbook` and `attention`, `block`, `transformer`,
`initialize` (all random numbers in one place), `linear_loss` (the cross-entropy that training uses); then
`latent_attention`, `experts`, `encoder_decoder`, `heads`, `counts` (parameters and arithmetic), `presets`.
"""

from fromzero.model.block import Cache
from fromzero.model.config import ModelConfig
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.presets import PRESETS
from fromzero.model.transformer import Transformer

__all__ = ["PRESETS", "Cache", "EncoderDecoder", "ModelConfig", "Transformer"]
