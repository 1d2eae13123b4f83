"""Tokenizer: text to token ids and back.

In: a corpus artifact (to train on), or a tokenizer's file, whoever made it. Out: a `Tokenizer`, saved in Hugging Face's
format.

Read in this order: patterns (how text is cut into pre-tokens), merge (bytes of a pre-token to ids), bpe (the
tokenizer), learn (which merges), train (the stage), huggingface (the file), stream (decoding as tokens arrive), chat
and sandbox (conversations). For the files of others: load, then ranks (tiktoken), sentencepiece_file, gguf.
"""

from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.chat import ChatTemplate
from fromzero.tokenizer.load import load_tokenizer
from fromzero.tokenizer.train import TokenizerConfig, train_tokenizer

__all__ = ["ChatTemplate", "Tokenizer", "TokenizerConfig", "load_tokenizer", "train_tokenizer"]
