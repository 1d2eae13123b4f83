"""Drafts: what came of a group of documents, in a folder that gets its name when all is there."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromzero.corpus.counting import Counts
from fromzero.corpus.decontaminate import Match
from fromzero.corpus.storing import Columns, DocumentWriter, ShardWriter
from fromzero.files import write_json

COUNTS, KNOWN, MATCHES, SIGNATURES = "counts.json", "known.npz", "matches.jsonl", "signatures.npz"
KEPT_COLUMNS: Columns = {**DocumentWriter.COLUMNS, "kind": "string"}
REJECTED_COLUMNS: Columns = dict.fromkeys(("id", "source", "reason", "text"), "string")


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of each kept document, so that it can be decided about without its text."""

    ids: NDArray[np.bytes_]
    bytes: NDArray[np.int64]
    characters: NDArray[np.int64]

    @staticmethod
    def of(folders: Sequence[Path]) -> "Known":
        """Of all documents of several folders, in order."""
        parts: list[dict[str, NDArray[Any]]] = []
        for folder in folders:
            with np.load(folder / KNOWN, allow_pickle=False) as file:
                parts.append(dict(file))
        return Known(*(np.concatenate([part[field.name] for part in parts]) for field in dataclasses.fields(Known)))


class Draft:
    """Writes `kept-*.parquet` (KEPT_COLUMNS), `rejected-*.parquet` (REJECTED_COLUMNS), COUNTS, KNOWN and MATCHES."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.counts = folder, Counts()
        self.kept, self.rejected = ShardWriter(folder, "kept", KEPT_COLUMNS), rejected_writer(folder)
        self.ids, self.sizes = bytearray(), array("q")
        self.matches: list[Match] = []

    def keep(self, row: dict[str, Any]) -> None:
        """Add a document of KEPT_COLUMNS."""
        size = len(row["text"].encode())
        self.ids += row["id"].encode()
        self.sizes.extend((size, len(row["text"])))
        self.kept.write(row, size)

    def reject(self, reason: str, source: str, name: str | None = None, text: str | None = None) -> None:
        """Add a document, or a file or record without an id and a text, that is dropped."""
        size = len((text or "").encode())
        self.counts.reject(reason, size)
        self.rejected.write(rejected_row(reason, source, name, text), size)

    def close(self) -> None:
        """Write what is left, and what is known of all."""
        bytes_, characters = np.array(self.sizes, np.int64).reshape(-1, 2).T
        np.savez(self.folder / KNOWN, ids=np.frombuffer(self.ids, "S32"), bytes=bytes_, characters=characters)
        lines = [json.dumps(dataclasses.asdict(match), ensure_ascii=False) + "\n" for match in self.matches]
        (self.folder / MATCHES).write_text("".join(lines), encoding="utf-8", errors="replace")
        write_json(self.folder / COUNTS, self.counts.plain())


@contextlib.contextmanager
def drafted(folder: Path) -> Iterator[Draft]:
    """A draft in a folder of this process, which is renamed to `folder` when all went well."""
    place = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(place, ignore_errors=True)
    draft = Draft(place)
    with draft.kept, draft.rejected:
        yield draft
    draft.close()
    place.rename(folder)


def rejected_writer(folder: Path) -> ShardWriter:
    """A writer of what is dropped."""
    return ShardWriter(folder, "rejected", REJECTED_COLUMNS)


def rejected_row(reason: str, source: str, name: str | None = None, text: str | None = None) -> dict[str, Any]:
    """A row of REJECTED_COLUMNS; what has no text, and so no id, gets one."""
    name = name or hashlib.sha256(f"{source}: {reason}".encode()).hexdigest()[:32]
    return {"id": name, "source": source, "reason": reason, "text": text}
