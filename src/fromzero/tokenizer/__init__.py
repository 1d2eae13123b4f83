"""Tokenizer: text to token ids and back.

In: a corpus artifact (to train on), or a folder with `tokenizer.json`. Out: a `Tokenizer`, saved in Hugging Face's
format.

Read in this order: patterns (how text is cut into pre-tokens), merge (bytes of a pre-token to ids), bpe (the
tokenizer), learn (which merges), train (the stage), huggingface (the file), stream (decoding as tokens arrive), chat
and sandbox (conversations).
"""

from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.chat import ChatTemplate
from fromzero.tokenizer.load import load_tokenizer
from fromzero.tokenizer.train import TokenizerConfig, train_tokenizer

__all__ = ["ChatTemplate", "Tokenizer", "TokenizerConfig", "load_tokenizer", "train_tokenizer"]
