"""Writing token shards: ids as flat binary files, where documents begin, and an index that says what is there.

A folder of tokens holds, for each split:
    train-00000.bin ...         ids of all documents one after another, unsigned little-endian integers
    train-00000.mask.bin ...    only with a loss mask: one byte an id, 1 where it carries loss
    train-boundaries.npy        int64, the position at which each document begins, and at last the number of ids
    train-ids.txt               the id that each document has in its corpus, one a line
and beside them `tokens.json` (the index) and the files of the tokenizer.
"""

import hashlib
import shutil
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from fromzero.artifact import is_artifact, open_artifact
from fromzero.errors import UserError
from fromzero.files import digest_file, digest_of, write_json
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.tokenizer.huggingface import CONFIG_FILE, MORE_TEMPLATES, TEMPLATE_FILE, TOKENIZER_FILE

INDEX = "tokens.json"
SPLITS: tuple[Literal["train", "validation"], ...] = ("train", "validation")
TOKENIZER_FILES = (TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE, MORE_TEMPLATES)


def smallest_type(vocab_size: int) -> str:
    """The name of the smallest unsigned integer type that holds every id."""
    return np.min_scalar_type(vocab_size - 1).name


class TokenWriter:
    """Writes the documents of one split, as a stream: 8 bytes a document stay in memory."""

    def __init__(self, folder: Path, split: str, vocab_size: int, shard_tokens: int, masked: bool = False) -> None:
        if shard_tokens < 1:
            raise UserError(f"shard_tokens is {shard_tokens}; it should be 1 or more")
        self.folder, self.split, self.shard_tokens = folder, split, shard_tokens
        self.type = np.dtype(smallest_type(vocab_size)).newbyteorder("<")
        self.ids = _Shards(folder / f"{split}-{{:05d}}.bin", shard_tokens)
        self.mask = _Shards(folder / f"{split}-{{:05d}}.mask.bin", shard_tokens) if masked else None
        self.boundaries = array("q", [0])
        self.names: TextIO | None = None
        self.bytes = self.loss_tokens = 0
        self.lossless = True

    def add(
        self, ids: Sequence[int] | NDArray[Any], text_bytes: int, mask: Sequence[bool] | None = None, name: str = ""
    ) -> None:
        """Add a document: its ids, the UTF-8 bytes of its text, its loss mask where the split has one, its id."""
        self.ids.write(np.array(ids, self.type))
        if self.mask is not None:
            marks = np.array(mask, np.uint8)
            self.mask.write(marks)
            self.loss_tokens += int(marks.sum())
        self.boundaries.append(self.boundaries[-1] + len(ids))
        self.bytes += text_bytes
        if name:
            self.names = self.names or (self.folder / f"{self.split}-ids.txt").open("w", encoding="utf-8")
            self.names.write(name + "\n")

    def close(self) -> dict[str, Any]:
        """Finish the split; what the index says about it."""
        np.save(self.folder / f"{self.split}-boundaries.npy", np.array(self.boundaries, np.int64))
        if self.names:
            self.names.close()
        entry = {
            "documents": len(self.boundaries) - 1,
            "tokens": self.boundaries[-1],
            "bytes": self.bytes,
            "lossless": self.lossless,
            "shard_tokens": self.shard_tokens,
            "shards": self.ids.close(),
            "sha256": self.ids.digest.hexdigest(),
        }
        if self.mask is None:
            return entry
        shards = self.mask.close()
        # Other masks over the same ids are other data.
        digest = digest_of(entry["sha256"], self.mask.digest.hexdigest())
        return {**entry, "masks": shards, "sha256": digest, "loss_tokens": self.loss_tokens}


class _Shards:
    """An endless file, cut into files of `shard_items` items each."""

    def __init__(self, pattern: Path, shard_items: int) -> None:
        self.pattern, self.shard_items = pattern, shard_items
        self.names: list[str] = []
        self.file: BinaryIO | None = None
        self.room = 0
        self.digest = hashlib.sha256()

    def write(self, items: np.ndarray) -> None:
        self.digest.update(items.tobytes())
        while len(items):
            if self.file is None or not self.room:
                self.file = self._next()
            self.file.write(items[: self.room].tobytes())
            written = min(self.room, len(items))
            items, self.room = items[written:], self.room - written

    def close(self) -> list[str]:
        if self.file is not None:
            self.file.close()
        return self.names

    def _next(self) -> BinaryIO:
        self.close()
        path = self.pattern.with_name(self.pattern.name.format(len(self.names)))
        self.names.append(path.name)
        self.room = self.shard_items
        return path.open("wb")


def write_index(
    folder: Path, tokenizer: Tokenizer, digest: str, splits: Mapping[str, Mapping[str, Any]], masked: bool
) -> None:
    """Write `tokens.json`, from which `TokenShards` opens the folder."""
    index = {
        "dtype": smallest_type(tokenizer.vocab_size),
        "vocab_size": tokenizer.vocab_size,
        "end_of_text": tokenizer.end_of_text,
        "tokenizer": digest,
        "masked": masked,
        "splits": splits,
    }
    write_json(folder / INDEX, index)


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 over the tokenizer files of a folder: a tokenizer or model artifact, which is checked, or another's.

    folder may also be anything that `load_tokenizer` opens, which raises UserError for what is no tokenizer.
    """
    if is_artifact(folder):
        open_artifact(folder)
    if (folder / TOKENIZER_FILES[0]).is_file():
        return digest_of({name: digest_file(folder / name) for name in _tokenizer_files(folder)})
    load_tokenizer(folder)
    files = [folder] if folder.is_file() else [file for file in sorted(folder.iterdir()) if file.is_file()]
    return digest_of({file.name: digest_file(file) for file in files})


def load_for_packing(path: Path) -> Tokenizer:
    """The tokenizer, which has to name a special token that begins documents. Raises UserError when it does not."""
    tokenizer = load_tokenizer(path)
    if tokenizer.end_of_text_token is None:
        some = ", ".join(list(tokenizer.special_tokens)[:4]) or "none"
        raise UserError(
            f"{path} names neither a bos_token nor an eos_token, one of which begins every document; name one of its "
            f'special tokens ({some}) as "bos_token" in the tokenizer_config.json beside its tokenizer.json'
        )
    return tokenizer


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put the tokenizer beside the tokens, so that a model trained from them knows how to read and write."""
    if not (source / TOKENIZER_FILES[0]).is_file():
        load_tokenizer(source).save(folder)
        return
    for name in _tokenizer_files(source):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def _tokenizer_files(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for name in TOKENIZER_FILES for file in sorted(folder.glob(name))]
