"""Weights -> text: key/value cache, sampling, generation.

In: a Transformer, token ids, SamplingConfig. Out: one token id at a time, or pieces of text as they become whole.
Reading order: `cache`, `sampling` (pure functions from logits to one id), `generate`, `beam` (several answers at once).
"""

from fromzero.inference.cache import KVCache
from fromzero.inference.generate import Generation, generate_text, generate_tokens
from fromzero.inference.sampling import SamplingConfig

__all__ = ["Generation", "KVCache", "SamplingConfig", "generate_text", "generate_tokens"]
