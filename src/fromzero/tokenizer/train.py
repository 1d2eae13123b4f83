"""The stage that makes a tokenizer from the training documents of a corpus."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fromzero.artifact import Artifact, build, open_artifact
from fromzero.console import progress
from fromzero.corpus import read_corpus
from fromzero.errors import UserError
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.chat import CHATML, IM_END, IM_START
from fromzero.tokenizer.huggingface import save_tokenizer
from fromzero.tokenizer.learn import learn_merges
from fromzero.tokenizer.patterns import compile_pattern, resolve_pattern, split

END_OF_TEXT = "<|endoftext|>"
SAMPLE_BYTES = 1_000_000  # text of each split on which bytes per token and language are measured
VERSION = 1


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How to train a byte-level BPE tokenizer."""

    corpus: Path
    """Corpus to learn from, a folder made by `corpus build`. Only its training documents are read."""
    output: Path
    """Folder for the tokenizer."""
    vocab_size: int = 4096
    """Number of token ids: 256 bytes, then the merges, then the special tokens. Without room for merges, the tokens
    are bytes."""
    pattern: str = "fromzero"
    """Where text is cut before pairs are merged: 'fromzero', 'gpt2', or an expression of the `regex` module."""
    special_tokens: tuple[str, ...] = (END_OF_TEXT, IM_START, IM_END)
    """Tokens that plain text never becomes. <|endoftext|> begins every document and has to be among them; the other
    two mark the turns of a chat."""
    reserved_tokens: int = 5
    """Further special tokens, <|reserved_0|> and so on, whose meaning can be chosen after training."""
    tie_break: Literal["greatest", "first"] = "greatest"
    """Which of two pairs that occur equally often is merged: the one of the greater bytes, or the one seen first."""

    def __post_init__(self) -> None:
        if END_OF_TEXT not in self.special_tokens:
            raise UserError(f"special_tokens lacks {END_OF_TEXT}, which begins every document; add it")
        if twice := [token for token, n in Counter(self.all_special_tokens).items() if n > 1]:
            raise UserError(f"special_tokens has {twice[0]} twice; name each once")
        if self.reserved_tokens < 0:
            raise UserError(f"reserved_tokens is {self.reserved_tokens}; it should be 0 or more")
        if self.merges < 0:
            specials = len(self.all_special_tokens)
            raise UserError(
                f"vocab_size {self.vocab_size} is too small: 256 bytes and {specials} special tokens need "
                f"{256 + specials}; raise it"
            )
        compile_pattern(resolve_pattern(self.pattern))

    @property
    def all_special_tokens(self) -> tuple[str, ...]:
        """The special tokens with the reserved ones, in the order of their ids."""
        return self.special_tokens + tuple(f"<|reserved_{i}|>" for i in range(self.reserved_tokens))

    @property
    def merges(self) -> int:
        """Merges for which the vocabulary has room."""
        return self.vocab_size - 256 - len(self.all_special_tokens)


def train_tokenizer(config: TokenizerConfig) -> Artifact:
    """Train a tokenizer on the training documents of a corpus; a 'tokenizer' artifact.

    Its summary: vocab_size, merges, and for `train` and `validation` the documents, bytes and tokens of a sample, bytes
    per token, and the same for each language. Memory grows with the number of different pre-tokens.
    Raises UserError when the corpus is empty or too small for the vocabulary.
    """
    corpus = open_artifact(config.corpus, "corpus")

    def make(folder: Path) -> Mapping[str, Any]:
        counts, size = _count_pretokens(config, corpus)
        tokenizer, tokens = _learn(config, counts)
        save_tokenizer(tokenizer, folder)
        return {
            "vocab_size": tokenizer.vocab_size,
            "merges": len(tokenizer.merges),
            "special_tokens": list(tokenizer.special_tokens),
            "pretokens": len(counts),
            "bytes": size,
            "tokens": tokens,
            "bytes_per_token": size / tokens,
            "train": _measure(tokenizer, corpus.path, "train", every=1 + size // SAMPLE_BYTES),
            "validation": _measure(tokenizer, corpus.path, "validation"),
        }

    return build(
        config.output,
        "tokenizer",
        config,
        {"corpus": corpus.digest},
        make,
        version=VERSION,
        ignore=("corpus", "output"),
    )


def _count_pretokens(config: TokenizerConfig, corpus: Artifact) -> tuple[dict[bytes, int], int]:
    """Pre-token -> how often it occurs, in the order of first appearance, and the bytes of all documents."""
    compiled = compile_pattern(resolve_pattern(config.pattern))
    counts: Counter[str] = Counter()
    characters = corpus.summary.get("characters", {}).get("train", 0)
    done = 0
    with progress("Counting words", characters, "characters") as report:
        for document in read_corpus(corpus.path, "train"):
            counts.update(split(compiled, document.text))
            done += len(document.text)
            report(done)
    encoded = {word.encode(): count for word, count in counts.items()}
    size = sum(len(word) * count for word, count in encoded.items())
    if not size:
        raise UserError(f"{corpus.path} has no training text; add documents and build it again")
    return encoded, size


def _learn(config: TokenizerConfig, counts: Mapping[bytes, int]) -> tuple[BPETokenizer, int]:
    """The tokenizer, and the tokens into which it cuts the counted text."""
    with progress("Learning merges", config.merges, "merges") as report:
        learned = learn_merges(counts, config.merges, config.tie_break, report)
    if missing := config.merges - len(learned.merges):
        raise UserError(
            f"{config.corpus} is too small for vocab_size {config.vocab_size}: no pair of tokens is left that occurs "
            f"twice; set vocab_size to {config.vocab_size - missing} or less, or add documents"
        )
    vocabulary = byte_vocabulary(learned.merges)
    special_tokens = {token: len(vocabulary) + i for i, token in enumerate(config.all_special_tokens)}
    chats = IM_START in special_tokens and IM_END in special_tokens
    roles = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
    tokenizer = BPETokenizer(
        vocabulary, learned.merges, config.pattern, special_tokens, roles, CHATML if chats else None
    )
    return tokenizer, learned.tokens


def _measure(
    tokenizer: BPETokenizer, corpus: Path, split_name: Literal["train", "validation"], every: int = 1
) -> dict[str, Any]:
    """Bytes per token, together and by language, on each `every`-th document up to SAMPLE_BYTES of text."""
    languages: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    documents = itertools.islice(read_corpus(corpus, split_name), 0, None, every)
    for document in documents:
        found = Counter(
            documents=1, bytes=len(document.text.encode()), tokens=len(tokenizer.encode_ordinary(document.text))
        )
        languages.setdefault(document.language, Counter()).update(found)
        total.update(found)
        if total["bytes"] >= SAMPLE_BYTES:
            break
    return {**_rates(total), "languages": {name: _rates(found) for name, found in sorted(languages.items())}}


def _rates(found: Mapping[str, int]) -> dict[str, Any]:
    return {**found, "bytes_per_token": found["bytes"] / found["tokens"] if found["tokens"] else 0.0}
