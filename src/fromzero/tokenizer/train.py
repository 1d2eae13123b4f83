"""The stage that makes a tokenizer from the training documents of a corpus."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from fromzero.artifact import Artifact, build, open_artifact
from fromzero.console import progress
from fromzero.errors import UserError
from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.huggingface import save_tokenizer
from fromzero.tokenizer.settings import TokenizerConfig

SAMPLE_BYTES = 1_000_000  # text of each split on which bytes per token and language are measured
VERSION = 2


def train_tokenizer(config: TokenizerConfig) -> Artifact:
    """Train a tokenizer on the training documents of a corpus; a 'tokenizer' artifact.

    Its summary: kind, vocab_size, merges (of bpe), and for `train` and `validation` the documents, bytes and tokens of
    a sample, bytes per token, and the same for each language. Memory grows with the number of different pre-tokens.
    Raises UserError when the corpus is empty or too small for the vocabulary.
    """
    corpus = open_artifact(config.corpus, "corpus")

    def make(folder: Path) -> Mapping[str, Any]:
        from fromzero.tokenizer.kinds import TRAINERS  # which starts kernels

        texts = _Texts(corpus)
        tokenizer, pretokens, tokens = TRAINERS[config.kind](config, texts)
        save_tokenizer(tokenizer, folder)
        return {
            "kind": config.kind,
            "vocab_size": tokenizer.vocab_size,
            "merges": len(getattr(tokenizer, "merges", ())),
            "special_tokens": list(tokenizer.special_tokens),
            "pretokens": pretokens,
            "bytes": texts.bytes,
            "tokens": tokens,
            "bytes_per_token": texts.bytes / tokens,
            "train": _measure(tokenizer, corpus.path, "train", every=1 + texts.bytes // SAMPLE_BYTES),
            "validation": _measure(tokenizer, corpus.path, "validation"),
        }

    inputs, ignore = {"corpus": corpus.digest}, ("corpus", "output")
    return build(config.output, "tokenizer", config, inputs, make, version=VERSION, ignore=ignore)


class _Texts:
    """The texts of the training documents, read as they are used, and the bytes read so far."""

    def __init__(self, corpus: Artifact) -> None:
        self.corpus, self.bytes = corpus, 0

    def __iter__(self) -> Iterator[str]:
        from fromzero.corpus import read_corpus

        characters = self.corpus.summary.get("characters", {}).get("train", 0)
        done = self.bytes = 0
        with progress("Reading text", characters, "characters") as report:
            for document in read_corpus(self.corpus.path, "train"):
                yield document.text
                done += len(document.text)
                self.bytes += len(document.text.encode())
                report(done)
        if not self.bytes:
            raise UserError(f"{self.corpus.path} has no training text; add documents and build it again")


def _measure(
    tokenizer: Tokenizer, corpus: Path, split_name: Literal["train", "validation"], every: int = 1
) -> dict[str, Any]:
    """Bytes per token, together and by language, on each `every`-th document up to SAMPLE_BYTES of text."""
    from fromzero.corpus import read_corpus

    languages: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    documents = itertools.islice(read_corpus(corpus, split_name), 0, None, every)
    for document in documents:
        tokens = len(tokenizer.encode_ordinary(document.text))
        found = Counter(documents=1, bytes=len(document.text.encode()), tokens=tokens)
        languages.setdefault(document.language, Counter()).update(found)
        total.update(found)
        if total["bytes"] >= SAMPLE_BYTES:
            break
    return {**_rates(total), "languages": {name: _rates(found) for name, found in sorted(languages.items())}}


def _rates(found: Mapping[str, int]) -> dict[str, Any]:
    return {**found, "bytes_per_token": found["bytes"] / found["tokens"] if found["tokens"] else 0.0}
