"""Documents that a model answers from: cut into passages, found by meaning, and shown to it in the system message.

The index of a folder is an artifact: vectors as safetensors and passages as JSON, reused until a document changes.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from fromzero import artifact
from fromzero.console import say
from fromzero.corpus.encoding import NotTextError, decode
from fromzero.errors import UserError
from fromzero.files import digest_file, digest_of, write_json
from fromzero.inference.embedding import Embedder
from fromzero.interop import save_tensors
from fromzero.locations import cached
from fromzero.tokenizer import Tokenizer

SUFFIXES = (".txt", ".md", ".rst")
_SENTENCE = re.compile(r".+?(?:[.!?]+(?=\s)|[。！？；]+|$)", re.DOTALL)
_TASK = "Answer from these passages, and name those that you use by their numbers, as in [1]."


class Passage(NamedTuple):
    """A piece of a document: its path in the folder, the line where it begins (from 1), and the text."""

    file: str
    line: int
    text: str


class Index:
    """Passages of a folder, and how near each is to a question."""

    def __init__(
        self, documents: Path, embedder: Embedder, output: Path | None = None, passage_tokens: int = 200
    ) -> None:
        """Read the index, or make it, in `output` or the user's cache. Raises UserError when there is no document."""
        self.embedder = embedder
        found = sorted(file for file in documents.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        files = {file.relative_to(documents).as_posix(): file for file in found}
        if not files:
            raise UserError(f"{documents}: no such folder with text files ({', '.join(SUFFIXES)})")
        weights = sorted(f for f in embedder.folder.rglob("*") if f.is_file()) or [embedder.folder]
        model = digest_of([digest_file(file) for file in weights])
        inputs = {"documents": digest_of({name: digest_file(file) for name, file in files.items()}), "model": model}
        limit = min(passage_tokens, embedder.longest - 2)
        folder = output or cached("indexes", str(documents.resolve()), model)
        settings = {"passage_tokens": limit}
        artifact.build(folder, "index", settings, inputs, lambda made: _make(files, embedder, limit, made))
        folder = artifact.here(folder)  # of one at a URL
        rows = json.loads((folder / "passages.json").read_text(encoding="utf-8"))
        self.passages = [Passage(*row) for row in rows]
        self.vectors_ND: Tensor = load_file(folder / "vectors.safetensors")["vectors"]

    def search(self, question: str, count: int = 5) -> list[tuple[float, Passage]]:
        """The nearest passages with their cosines, the nearest first."""
        scores_N = self.vectors_ND @ self.embedder([question])[0]
        best = scores_N.topk(min(count, len(self.passages)))
        return [(s, self.passages[i]) for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def _make(files: Mapping[str, Path], embedder: Embedder, limit: int, folder: Path) -> Mapping[str, int]:
    passages = []
    for name, file in files.items():
        try:
            text = decode(file.read_bytes())
        except NotTextError as error:
            say(f"{file}: passed over ({error})")
            continue
        passages += [Passage(name, *passage) for passage in cut_passages(text, embedder.tokenizer, limit)]
    if not passages:
        raise UserError(f"there is no text in {', '.join(list(files)[:3])}")
    save_tensors({"vectors": embedder([passage.text for passage in passages])}, folder / "vectors.safetensors")
    write_json(folder / "passages.json", passages)
    return {"documents": len(files), "passages": len(passages)}


def cut_passages(text: str, tokenizer: Tokenizer, limit: int) -> Iterator[tuple[int, str]]:
    """(line, text) of passages of at most `limit` tokens: paragraphs, joined while they are short (headings, lists).

    What is longer is cut at ends of lines and sentences, and where there are none, anywhere.
    """
    held: list[str] = []
    start = size = 0
    for line, piece, tokens in _pieces(text, tokenizer, limit):
        if held and (size + tokens > limit or (not piece.strip() and size > limit // 4)):
            yield start, "".join(held).strip()
            held, size = [], 0
        if piece.strip() or held:
            start = start if held else line
            held.append(piece)
            size += tokens
    if held:
        yield start, "".join(held).strip()


def _pieces(text: str, tokenizer: Tokenizer, limit: int) -> Iterator[tuple[int, str, int]]:
    """Lines, or parts of long ones, with the number of the line and of tokens."""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        short = (size := len(tokenizer.encode(line))) <= limit
        for sentence in [] if short else _SENTENCE.findall(line):
            yield from ((number, *part) for part in _halved(sentence, tokenizer, limit))
        if short:
            yield number, line, size


def _halved(text: str, tokenizer: Tokenizer, limit: int) -> Iterator[tuple[str, int]]:
    size, middle = len(tokenizer.encode(text)), len(text) // 2
    if size <= limit or not middle:
        yield text, size
    else:
        yield from _halved(text[:middle], tokenizer, limit)
        yield from _halved(text[middle:], tokenizer, limit)


def grounded(
    messages: Sequence[dict[str, str]], passages: Sequence[Passage], fits: Callable[[Sequence[dict[str, str]]], bool]
) -> tuple[list[dict[str, str]], list[Passage]]:
    """The conversation with as many of the passages as fit in its system message, and those."""
    system = "".join(message["content"] + "\n\n" for message in messages if message["role"] == "system")
    rest = [message for message in messages if message["role"] != "system"]
    for count in range(len(passages), 0, -1):
        shown = "\n\n".join(f"[{number}] {passage.text}" for number, passage in enumerate(passages[:count], 1))
        made = [{"role": "system", "content": f"{system}{_TASK}\n\n{shown}"}, *rest]
        if fits(made):
            return made, list(passages[:count])
    return list(messages), []
