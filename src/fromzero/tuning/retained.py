"""What tuning makes a model forget: its loss on text of the kind that it knew before, measured at each look."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fromzero import artifact
from fromzero.corpus import read_corpus
from fromzero.dataset import TokenShards
from fromzero.errors import UserError
from fromzero.evaluation.perplexity import score_documents, summarize
from fromzero.model import Transformer
from fromzero.tokenizer import Tokenizer, load_tokenizer

SUFFIXES = (".txt", ".md")
CHARACTERS = 64
"""Of text read at most for each token that is wanted."""


@dataclass(frozen=True)
class Retained:
    """Texts that were known before; the same at each look, so figures of one run compare."""

    tokenizer: Tokenizer
    texts: tuple[str, ...]

    @classmethod
    def open(cls, path: Path, tokenizer: Tokenizer, tokens: int) -> "Retained":
        """The first `tokens` tokens of the held-out side of tokens or of a corpus, or of a text file or a folder of
        them (.txt, .md). Raises UserError when there is no text.
        """
        texts, left = [], tokens
        for whole in _texts(artifact.here(path), CHARACTERS * tokens):
            text = whole[: CHARACTERS * left]
            if size := len(tokenizer.encode_ordinary(text)):
                texts.append(text if size <= left else text[: max(1, len(text) * left // size)])
                left -= size
            if left <= 0:
                break
        if not texts:
            raise UserError(f"retain: {path} has no text; name tokens, a corpus, a text file or a folder of them")
        return cls(tokenizer, tuple(texts))

    def measure(self, model: Transformer) -> dict[str, float]:
        """Nats per token; and bits per byte, unless the tokenizer loses some of the text."""
        found = summarize(score_documents(model, self.tokenizer, self.texts))
        bits = {} if found.bits_per_byte is None else {"retained_bits_per_byte": found.bits_per_byte}
        return {"retained_loss": found.nats / found.tokens, **bits}


def _texts(path: Path, most: int) -> Iterator[str]:
    if artifact.is_artifact(path):
        yield from _of_artifact(path)
        return
    files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES and f.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            with file.open(encoding="utf-8-sig") as opened:
                yield opened.read(most)
        except FileNotFoundError:
            raise UserError(f"retain: {path} is not there; name tokens, a corpus, a text file or a folder") from None
        except ValueError as error:
            raise UserError(f"retain: {file} is not in UTF-8 ({error})") from None


def _of_artifact(path: Path) -> Iterator[str]:
    kind = artifact.open_artifact(path, hashes=False).kind
    if kind == "corpus":
        yield from (document.text for document in read_corpus(path, "validation"))
    elif kind == "tokens":  # as text, so whatever tokenizer made them
        shards, tokenizer = TokenShards(path, "validation"), load_tokenizer(path)
        starts = shards.boundaries
        for first, last in itertools.pairwise(starts):
            yield tokenizer.decode([int(i) for i in shards[int(first) : int(last)] if i != shards.end_of_text])
    else:
        raise UserError(f"retain: {path} is a {kind}; name tokens, a corpus, a text file or a folder of them")
