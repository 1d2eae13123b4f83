"""Documents that a model answers from: cut into passages, found by meaning, and shown to it in the system message.

The index of a folder is an artifact: vectors as safetensors and passages as JSON, reused until a document changes.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from fromzero import artifact
from fromzero.artifact import digest_file, digest_of
from fromzero.console import say
from fromzero.corpus.encoding import NotTextError, decode
from fromzero.errors import UserError
from fromzero.inference.embedding import Embedder
from fromzero.interop import save_tensors
from fromzero.locations import cached
from fromzero.tokenizer import Tokenizer

VERSION = 1
SUFFIXES = (".txt", ".md", ".rst")
MAX_FILE_BYTES = 50_000_000
_SENTENCE = re.compile(r".+?(?:[.!?]+(?=\s)|[。！？；]+|$)", re.DOTALL)
_TASK = "Answer from these passages, and name those that you use by their numbers, as in [1]."


@dataclass(frozen=True)
class Passage:
    """A piece of a document."""

    file: str
    """Path in the folder."""
    line: int
    """Where it begins, from 1."""
    text: str


@dataclass(frozen=True)
class IndexConfig:
    """What is found by what."""

    documents: Path
    """Folder of text files (.txt, .md, .rst)."""
    model: Path = Path("minilm-l6-v2")
    """Folder or name of the model that makes the vectors; minilm-l6-v2 knows English, and little of other languages."""
    output: Path | None = None
    """Folder for the index; null keeps it in the user's cache."""
    passage_tokens: int = 200
    """Longest passage."""


class Index:
    """Passages of a folder, and how near each is to a question."""

    def __init__(self, config: IndexConfig, embedder: Embedder) -> None:
        """Read the index, or make it. Raises UserError when there is no document."""
        self.embedder = embedder
        files = sorted(f for f in config.documents.rglob("*") if f.is_file() and f.suffix.lower() in SUFFIXES)
        if not files:
            raise UserError(f"{config.documents}: no such folder with text files ({', '.join(SUFFIXES)})")
        weights = sorted(f for f in embedder.folder.rglob("*") if f.is_file()) or [embedder.folder]
        inputs = {
            "documents": digest_of({f.relative_to(config.documents).as_posix(): digest_file(f) for f in files}),
            "model": digest_of([digest_file(f) for f in weights]),
        }
        output = config.output or cached("indexes", str(config.documents.resolve()), inputs["model"])
        folder = artifact.build(
            output,
            "index",
            config,
            inputs,
            lambda folder: _make(config, files, embedder, folder),
            version=VERSION,
            ignore=("documents", "model", "output"),
        ).path
        self.passages = [Passage(**p) for p in json.loads((folder / "passages.json").read_text(encoding="utf-8"))]
        self.vectors_ND: Tensor = load_file(folder / "vectors.safetensors")["vectors"]

    def search(self, question: str, count: int = 5) -> list[tuple[float, Passage]]:
        """The nearest passages with their cosines, the nearest first."""
        scores_N = self.vectors_ND @ self.embedder([question])[0]
        best = scores_N.topk(min(count, len(self.passages)))
        return [(s, self.passages[i]) for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def _make(config: IndexConfig, files: Sequence[Path], embedder: Embedder, folder: Path) -> Mapping[str, int]:
    limit, passages = min(config.passage_tokens, embedder.longest - 2), []
    for file in files:
        name = file.relative_to(config.documents).as_posix()
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise NotTextError(f"it has more than {MAX_FILE_BYTES:,} bytes")
            passages += [
                Passage(name, *cut) for cut in cut_passages(decode(file.read_bytes()), embedder.tokenizer, limit)
            ]
        except NotTextError as error:
            say(f"{file}: passed over ({error})")
    if not passages:
        raise UserError(f"{config.documents}: there is no text in its files")
    save_tensors({"vectors": embedder([passage.text for passage in passages])}, folder / "vectors.safetensors")
    artifact.write_json(folder / "passages.json", [asdict(passage) for passage in passages])
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
        pieces = [(line, size)] if short else (p for s in _SENTENCE.findall(line) for p in _halved(s, tokenizer, limit))
        yield from ((number, piece, tokens) for piece, tokens in pieces)


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
    system, rest = (
        ("", messages) if messages[0]["role"] != "system" else (messages[0]["content"] + "\n\n", messages[1:])
    )
    for count in range(len(passages), 0, -1):
        shown = "\n\n".join(f"[{number}] {passage.text}" for number, passage in enumerate(passages[:count], 1))
        made = [{"role": "system", "content": f"{system}{_TASK}\n\n{shown}"}, *rest]
        if fits(made):
            return made, list(passages[:count])
    return list(messages), []
