"""Weights -> text: one answer the plain way, or many at once through an engine.

In: a Transformer, token ids, SamplingConfig. Out: one token id at a time, or pieces of text as they become whole.
Reading order: `cache`, `sampling` (from logits to one id), `generate`, `beam` (several answers side by side); then the
engine: `request` (what is asked and answered), `pages` (whose memory), `scheduler` (whose turn), `paged` (many
sequences as one row), `engine` (a step at a time), `streams` (on a thread, for a server).
"""

from fromzero.inference.cache import KVCache
from fromzero.inference.generate import Generation, generate_text, generate_tokens
from fromzero.inference.sampling import SamplingConfig

__all__ = ["Generation", "KVCache", "SamplingConfig", "generate_text", "generate_tokens"]
