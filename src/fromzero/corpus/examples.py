"""The texts from which the classifier and the language model of n-grams learn."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from fromzero.artifact import here, open_artifact
from fromzero.corpus.document import text_digest
from fromzero.corpus.normalize import normalize
from fromzero.corpus.storing import read_corpus
from fromzero.errors import UserError
from fromzero.files import digest_file

MAX_LINE = 16_000_000


def read_examples(paths: Sequence[Path], characters: int, most: int = 1_000_000_000) -> list[str]:
    """The different texts of corpora (their training documents) and files, each cut after so many characters.

    No more are read once there are `most` characters. Files: .jsonl, the text of each line under `text`; .txt, a text
    a line. Raises UserError for anything else, for lines that can't be read, and when there is no text.
    """
    texts: dict[str, str] = {}
    for text in itertools.chain.from_iterable(map(_texts, map(here, paths))):
        if (cut := normalize(text[:characters]).strip()) and (key := text_digest(cut)) not in texts:
            texts[key], most = cut, most - len(cut)
        if most <= 0:
            break
    if not texts:
        raise UserError(f"{', '.join(map(str, paths)) or 'an empty list of files'}: no text there; name examples")
    return list(texts.values())


def digest_examples(paths: Sequence[Path]) -> str:
    """One digest of the contents of corpora and files."""
    return " ".join(
        open_artifact(path, "corpus").digest if path.is_dir() else _digest(path) for path in map(here, paths)
    )


def held_out(text: str, share: float) -> bool:
    """Whether a text is among those held out: by its hash, so the same ones whatever else there is."""
    return int(text_digest(text)[:8], 16) < share * 2**32


def _digest(path: Path) -> str:
    if not path.is_file() or path.suffix not in (".jsonl", ".txt"):
        raise UserError(f"{path}: examples come from a corpus, a .jsonl file with `text` or a .txt file, a text a line")
    return digest_file(path)


def _texts(path: Path) -> Iterator[str]:
    if path.is_dir():
        yield from (document.text for document in read_corpus(path, "train"))
        return
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            try:
                if len(line) > MAX_LINE:
                    raise ValueError(f"it has more than {MAX_LINE:,} bytes")
                yield str(json.loads(line)["text"]) if path.suffix == ".jsonl" else line.decode()
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UserError(f"{path}, line {number} can't be read ({error!r}); it takes text in UTF-8") from error
