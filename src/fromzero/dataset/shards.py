"""Reading token shards: one flat sequence of ids, memory-mapped, whatever number of files it is in."""

import bisect
import functools
import itertools
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fromzero.dataset.writing import INDEX
from fromzero.errors import UserError, nearest


class TokenShards:
    """One split of a folder of tokens. `len` is its number of ids; a slice is an array of ids, not copied if it can be.

    folder: a 'tokens' artifact; that it is one and undamaged is checked by `artifact.open_artifact`. Here the sizes of
    its files are checked when it is opened, and every slice that is read for ids outside the vocabulary.
    Raises UserError when something is missing or does not fit.
    """

    def __init__(self, folder: Path, split: Literal["train", "validation"] = "train") -> None:
        self.folder, self.split = Path(folder), split
        index = _read_index(self.folder)
        if split not in index["splits"]:
            raise UserError(f"{self.folder} has no split '{split}'{nearest(split, index['splits'])}")
        self._entry = index["splits"][split]
        self.vocab_size = int(index["vocab_size"])
        """Ids are below it."""
        self.end_of_text = int(index["end_of_text"])
        """The id that begins every document of a corpus; padding in batches of conversations."""
        self.tokenizer_digest = str(index["tokenizer"])
        """SHA-256 of the tokenizer, whose files are in the folder."""
        self.masked = bool(index["masked"])
        """Whether there is a loss mask."""
        self.documents = int(self._entry["documents"])
        """Number of documents or conversations."""
        self.text_bytes = int(self._entry["bytes"])
        """UTF-8 bytes of the text that was encoded."""
        self.lossless = bool(self._entry.get("lossless", True))
        """Whether the ids of every held-out document decode to its text; not looked at for those to learn from."""
        self.fingerprint = str(self._entry["sha256"])
        """SHA-256 of all ids, and of the loss mask where there is one."""
        self._ids = self._open("shards", np.dtype(index["dtype"]).newbyteorder("<"))
        self._masks = self._open("masks", np.dtype(np.bool_)) if self.masked else None

    def __len__(self) -> int:
        return int(self._entry["tokens"])

    def __getitem__(self, where: slice) -> NDArray[Any]:
        """Ids from start to stop, of the type of the files. Raises UserError for an id outside the vocabulary."""
        start, stop, step = where.indices(len(self))
        if step != 1:
            raise ValueError("token shards are read in steps of 1")
        ids = self._ids.read(start, stop)
        if ids.size and int(ids.max()) >= self.vocab_size:
            raise UserError(
                f"{self.folder} has the id {int(ids.max())} between positions {start} and {stop} of {self.split}, but "
                f"a vocabulary of {self.vocab_size}; it is damaged: build it again"
            )
        return ids

    def mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of the ids from start to stop carry loss. Raises UserError when the folder has no mask."""
        if self._masks is None:
            raise UserError(f"{self.folder} has no loss mask; make tokens from conversations for that")
        return self._masks.read(start, stop)

    @functools.cached_property
    def boundaries(self) -> NDArray[np.int64]:
        """(documents + 1,) int64: where each document begins, and at last the number of ids."""
        file = self.folder / f"{self.split}-boundaries.npy"
        try:
            found = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file} can't be read ({error}); build {self.folder} again") from error
        if found.shape != (self.documents + 1,) or found[-1] != len(self):
            raise UserError(f"{file} does not fit {INDEX}; build {self.folder} again")
        return found

    def names(self, numbers: Collection[int]) -> dict[int, str]:
        """Ids in the corpus of the documents with these numbers; where no ids were kept, the numbers and the folder."""
        try:
            with (self.folder / f"{self.split}-ids.txt").open(encoding="utf-8") as lines:
                return {number: line.rstrip("\n") for number, line in enumerate(lines) if number in numbers}
        except FileNotFoundError:
            return {number: f"number {number} of {self.folder}" for number in numbers}

    def _open(self, key: str, kind: np.dtype[Any]) -> "_Flat":
        size, shard = len(self), int(self._entry["shard_tokens"])
        expected = [min(shard, size - start) for start in range(0, size, shard)]
        names = self._entry[key]
        if len(names) != len(expected):
            raise UserError(f"{self.folder / INDEX} lists {len(names)} {key}, not {len(expected)}; build it again")
        return _Flat([_map(self.folder / name, kind, n) for name, n in zip(names, expected, strict=True)])


class JoinedShards(TokenShards):
    """Splits made with one tokenizer as one, without loss masks. folder: what messages call it."""

    def __init__(self, parts: Sequence[TokenShards], folder: Path, fingerprint: str) -> None:
        first, self.parts = parts[0], parts
        self.folder, self.split, self.fingerprint = folder, first.split, fingerprint
        self.vocab_size, self.end_of_text = first.vocab_size, first.end_of_text
        self.tokenizer_digest = first.tokenizer_digest
        self.masked, self._masks = False, None
        self.documents, self.text_bytes = sum(p.documents for p in parts), sum(p.text_bytes for p in parts)
        self.lossless = all(part.lossless for part in parts)
        self._entry = {"tokens": sum(map(len, parts))}
        self._ids = _Flat([array for part in parts for array in part._ids.arrays])

    @functools.cached_property
    def boundaries(self) -> NDArray[np.int64]:
        """(documents + 1,) int64: where each document begins, and at last the number of ids."""
        starts = itertools.accumulate(map(len, self.parts), initial=0)
        pieces = [part.boundaries[:-1] + start for part, start in zip(self.parts, starts, strict=False)]
        return np.append(np.concatenate(pieces), len(self))

    def names(self, numbers: Collection[int]) -> dict[int, str]:
        """Ids in the corpora of the documents with these numbers; numbers go on from part to part."""
        first, found = 0, dict[int, str]()
        for part in self.parts:
            own = {n - first for n in numbers if first <= n < first + part.documents}
            found |= {first + n: name for n, name in part.names(own).items()}
            first += part.documents
        return found


class ShardsInMemory(TokenShards):
    """A split that was never written: the ids of its documents, each with its beginning."""

    def __init__(
        self,
        folder: Path,
        split: Literal["train", "validation"],
        documents: Sequence[NDArray[Any]],
        vocab_size: int,
        end_of_text: int,
        lossless: bool,
    ) -> None:
        """folder: what messages call it."""
        self.folder, self.split, self.vocab_size, self.end_of_text = folder, split, vocab_size, end_of_text
        self.masked, self._masks, self.lossless, self.documents = False, None, lossless, len(documents)
        self._ids = _Flat(documents)
        self._entry = {"tokens": self._ids.starts[-1]}

    @functools.cached_property
    def boundaries(self) -> NDArray[np.int64]:
        """(documents + 1,) int64: where each document begins, and at last the number of ids."""
        return np.array(self._ids.starts, np.int64)


class _Flat:
    """Arrays that are read as if they were one."""

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        self.arrays = arrays
        self.starts = [0, *itertools.accumulate(map(len, arrays))]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """A view where start to stop lie in one array, else a copy."""
        first = max(0, bisect.bisect_right(self.starts, start) - 1)
        pieces = []
        for array, begin in zip(self.arrays[first:], self.starts[first:], strict=False):
            if begin >= stop:
                break
            pieces.append(array[start - begin if start > begin else 0 : stop - begin])
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.uint8)


def _map(file: Path, kind: np.dtype[Any], size: int) -> NDArray[Any]:
    try:
        found = file.stat().st_size
    except OSError as error:
        raise UserError(f"{file} can't be read ({error}); build its folder again") from error
    if found != size * kind.itemsize:
        raise UserError(f"{file} has {found} bytes, not {size * kind.itemsize}; it is damaged: build its folder again")
    return np.memmap(file, kind, mode="r", shape=(size,))


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / INDEX
    try:
        index = json.loads(file.read_bytes())
        assert {"splits", "dtype", "vocab_size", "end_of_text", "tokenizer", "masked"} <= index.keys()
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {INDEX}; make tokens with: fromzero pack --output {folder}") from None
    except (OSError, ValueError, AttributeError, AssertionError) as error:
        raise UserError(f"{file} can't be read ({error}); build {folder} again") from error
    return dict(index)
