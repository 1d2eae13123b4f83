"""Tokenizer: text to token ids and back.

In: a corpus artifact (to train on), or a folder with `tokenizer.json`. Out: a `BPETokenizer`, saved in Hugging Face's
format.

Read in this order: patterns (how text is cut into pre-tokens), merge (bytes of a pre-token to ids), bpe (the
tokenizer), learn (which merges), train (the stage), huggingface (the file), stream (decoding as tokens arrive), chat
and sandbox (conversations).
"""

from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.chat import ChatTemplate
from fromzero.tokenizer.huggingface import load_tokenizer
from fromzero.tokenizer.train import TokenizerConfig, train_tokenizer

__all__ = ["BPETokenizer", "ChatTemplate", "TokenizerConfig", "load_tokenizer", "train_tokenizer"]
