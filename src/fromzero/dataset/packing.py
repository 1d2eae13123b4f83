"""The stage that turns a corpus into token shards."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fromzero.artifact import Artifact, build, here, open_artifact
from fromzero.console import progress
from fromzero.corpus import Document, read_corpus
from fromzero.dataset.recovery import bytes_to_spell
from fromzero.dataset.writing import (
    SPLITS,
    TokenWriter,
    copy_tokenizer,
    load_for_packing,
    tokenizer_digest,
    write_index,
)
from fromzero.errors import UserError, nearest
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.text import batches

VERSION = 3
BATCH_CHARACTERS = 1 << 23  # encoded at once, so that each thread has some of them


@dataclasses.dataclass(frozen=True)
class PackConfig:
    """How to turn a corpus into token shards."""

    corpus: Path
    """Corpus to encode, a folder made by `corpus build`."""
    tokenizer: Path
    """Tokenizer to encode it with: a folder made by `tokenizer train`, or any with a tokenizer.json."""
    output: Path
    """Folder for the shards."""
    languages: tuple[str, ...] = ()
    """Only documents in these languages, as the corpus names them (en, zh, ...); empty takes all."""
    shard_tokens: int = 100_000_000
    """Tokens in one shard file."""


def pack(config: PackConfig) -> Artifact:
    """Encode every document of a corpus, <|endoftext|> before each; a 'tokens' artifact.

    Its summary: vocab_size, and for `train` and `validation` the documents, tokens, bytes of text and bytes per token.
    Documents are read and written as a stream, some megabytes at a time. Raises UserError when the corpus or the
    tokenizer can't be read.
    """
    corpus = open_artifact(config.corpus, "corpus")
    source = here(config.tokenizer)
    digest = tokenizer_digest(source)
    known = corpus.summary.get("languages", {})
    for language in config.languages:
        if language not in known:
            raise UserError(f"{corpus.path} has no document in '{language}'{nearest(language, known)}")

    def make(folder: Path) -> Mapping[str, Any]:
        tokenizer = load_for_packing(source)
        characters = corpus.summary.get("characters", {})
        with progress("Packing", sum(characters.values()), "characters") as report:
            done = 0
            splits: dict[str, Any] = {}
            for split in SPLITS:
                writer = TokenWriter(folder, split, tokenizer.vocab_size, config.shard_tokens)
                documents = read_corpus(corpus.path, split)
                chosen = (d for d in documents if not config.languages or d.language in config.languages)
                done = _pack_split(chosen, split, tokenizer, writer, done, report)
                splits[split] = writer.close()
        copy_tokenizer(source, folder)
        write_index(folder, tokenizer, digest, splits, masked=False)
        return {"vocab_size": tokenizer.vocab_size, "masked": False, **summarise(splits)}

    inputs = {"corpus": corpus.digest, "tokenizer": digest}
    ignore = ("corpus", "tokenizer", "output")
    return build(config.output, "tokens", config, inputs, make, version=VERSION, ignore=ignore)


def _pack_split(
    documents: Iterable[Document],
    split: Literal["train", "validation"],
    tokenizer: Tokenizer,
    writer: TokenWriter,
    done: int,
    report: Callable[[float], None],
) -> int:
    """Encode one split; returns the characters done so far."""
    for group in batches(documents, BATCH_CHARACTERS, lambda d: len(d.text)):
        texts = [document.text for document in group]
        for document, text, ids in zip(group, texts, tokenizer.encode_arrays(texts), strict=True):
            writer.add(np.concatenate(([tokenizer.end_of_text], ids)), len(text.encode()), name=document.id)
            if split == "validation":  # the only one that models are measured on
                writer.lossless &= bytes_to_spell(tokenizer, ids.tolist(), text) == 0
            done += len(text)
        report(done)
    return done


def summarise(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The counts of each split, without what only the index needs."""
    counted = ("documents", "tokens", "bytes", "loss_tokens")
    return {
        name: {key: entry[key] for key in counted if key in entry}
        | {"bytes_per_token": entry["bytes"] / entry["tokens"] if entry["tokens"] else 0.0}
        for name, entry in splits.items()
    }
