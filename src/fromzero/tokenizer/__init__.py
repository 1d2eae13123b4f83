"""Tokenizer: text to token ids and back.

In: a corpus artifact (to train on), or a tokenizer's file, whoever made it. Out: a `Tokenizer`, saved in Hugging Face's
format.

Read in this order:
- every kind: text, added, base (what all tokenizers offer); normalize (what is done to a text first)
- byte-pair encoding: patterns, automaton, splitter (text to pre-tokens); merge, merge_table, bpe (pre-tokens to ids);
  pretokens, learn (which merges)
- the other kinds: characters, word, wordpiece and wordpiece_learn, unigram and unigram_learn
- training: settings, kinds, train (the stage)
- files: huggingface, bpe_file and sentencepiece_json (ours); foreign, load, ranks, last_pairs,
  sentencepiece_file, gguf*
- conversations: messages, traced, sandbox, chat
- in use: stream (decoding as tokens arrive), compare and compare_text (tokenizers side by side)
"""

from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.chat import ChatTemplate
from fromzero.tokenizer.load import load_tokenizer
from fromzero.tokenizer.train import TokenizerConfig, train_tokenizer

__all__ = ["ChatTemplate", "Tokenizer", "TokenizerConfig", "load_tokenizer", "train_tokenizer"]
