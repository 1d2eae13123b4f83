"""`build_corpus`: the whole stage, in the order in which it happens.

walk the inputs -> partitions -> the engine reads each: children parse, normalise, cut, judge and mask -> duplicates,
exact and near, over all -> split -> shards
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromzero.artifact import Artifact, build, write_json
from fromzero.console import progress
from fromzero.corpus.counting import Counts, Tally
from fromzero.corpus.document import DUPLICATE, NEAR_DUPLICATE, REASONS, Document
from fromzero.corpus.files import Found, clear, digest_inputs, find_files
from fromzero.corpus.near_duplicates import MinHash, find_near_duplicates, preference
from fromzero.corpus.partitions import REJECTED_COLUMNS, SIGNATURES, Partition, partition, read_all, rejected_row
from fromzero.corpus.settings import CorpusConfig
from fromzero.corpus.splitting import hold_out, split_at, tail_position
from fromzero.corpus.storing import DocumentWriter, ShardWriter, read_rows
from fromzero.corpus.worker import WorkSettings
from fromzero.errors import UserError

VERSION = 2
"""Raised whenever the same settings would give another corpus."""
WORK = "partitions"
"""What each partition gave, until the corpus is finished: an interrupted build goes on from there."""
MIN_DIVISIBLE = 2_000
"""Characters: a corpus of one document is held out from its end if it is at least this long."""


def build_corpus(config: CorpusConfig) -> Artifact:
    """Turn files and folders of documents into a corpus: Parquet shards of clean text, and the reasons for the rest.

    The result depends on the contents of the inputs and on the settings, not on the engine or the number of workers.
    Raises UserError when there is nothing to read, or when too little is left for a train and a validation part.
    """
    found = find_files(config.inputs, config.output)
    return build(
        config.output,
        "corpus",
        config,
        digest_inputs(config.inputs, found),
        lambda folder: _make(folder, found, config),
        version=VERSION,
        ignore=("inputs", "output", "workers", "engine", "engine_address"),
        scratch=WORK,
    )


def _make(folder: Path, found: Found, config: CorpusConfig) -> Mapping[str, Any]:
    parts = partition(found.files, folder / WORK)
    with progress("reading documents", found.bytes, "B") as report:
        settings = WorkSettings.of(config)
        read_all(parts, settings, config.near_duplicates, config.engine, config.engine_address, config.workers, report)
    clear(folder, WORK)
    counts = Counts(found.passed_over)
    for part in parts:
        counts.add(json.loads((part.folder / "counts.json").read_text()))
    kept, characters = _deduplicate(folder, parts, config.near_duplicates, counts)
    if not kept:
        raise UserError(_nothing_kept(folder, config, counts))
    summary = _write_sides(folder, config, counts, parts, kept, characters)
    write_json(folder / "counts.json", summary)
    return summary


def _deduplicate(
    folder: Path, parts: Sequence[Partition], near: MinHash | None, counts: Counts
) -> tuple[dict[str, int], int]:
    """Of equal texts the first is kept, of nearly equal ones the longest, and of those the one with the smallest id.

    Writes what was rejected; returns id -> bytes of the others, and characters.
    """
    better = _better(parts, near) if near else None
    kept: dict[str, int] = {}
    seen: set[str] = set()
    characters = number = 0
    with ShardWriter(folder / "rejected", "rejected", REJECTED_COLUMNS) as rejected:
        for part in parts:
            for row in read_rows(part.folder, "rejected"):
                rejected.write(row, len((row["text"] or "").encode()))
            for row in read_rows(part.folder, "kept"):
                size = len(row["text"].encode())
                near_one = better is not None and better[number] != number
                reason = DUPLICATE if row["id"] in seen else NEAR_DUPLICATE if near_one else None
                seen.add(row["id"])
                number += 1
                if reason:
                    counts.reject(reason, size)
                    rejected.write(rejected_row(row["source"], row | {"reason": reason}), size)
                    continue
                kept[row["id"]] = size
                characters += len(row["text"])
                counts.keep(row["kind"], row["language"], size)
    return kept, characters


def _better(parts: Sequence[Partition], near: MinHash) -> NDArray[np.int64]:
    """For each document the number of the one that is kept of those it is nearly the same as, often its own."""
    rows = [(row["id"], len(row["text"])) for part in parts for row in read_rows(part.folder, "kept")]
    ranks = preference([name for name, _ in rows], [length for _, length in rows])
    return find_near_duplicates([part.folder / SIGNATURES for part in parts], near, ranks)


def _write_sides(
    folder: Path,
    config: CorpusConfig,
    counts: Counts,
    parts: Sequence[Partition],
    kept: Mapping[str, int],
    characters: int,
) -> dict[str, Any]:
    """Second pass: the documents go to the train or the validation shards."""
    with DocumentWriter(folder, "train") as train, DocumentWriter(folder, "validation") as validation:
        writers = {"train": train, "validation": validation}
        for side, document in _sides(_documents(parts, kept), config, kept, characters):
            writers[side].write(document)
    tallies = {side: Tally(writer.documents, writer.bytes) for side, writer in writers.items()}
    halved = train.documents + validation.documents - len(kept)
    return counts.summary(tallies, {side: writer.characters for side, writer in writers.items()}, halved)


def _documents(parts: Sequence[Partition], kept: Mapping[str, int]) -> Iterator[Document]:
    """Each text once, in the order of the files."""
    seen: set[str] = set()
    for part in parts:
        for row in read_rows(part.folder, "kept"):
            if row["id"] in kept and row["id"] not in seen:
                seen.add(row["id"])
                del row["kind"]
                yield Document(**row | {"meta": dict(row["meta"])})


def _sides(
    documents: Iterator[Document], config: CorpusConfig, kept: Mapping[str, int], characters: int
) -> Iterator[tuple[str, Document]]:
    if config.split == "random" and len(kept) > 1:
        held = hold_out(list(kept.items()), config.validation, config.validation_max_bytes, config.seed)
        for document in documents:
            yield ("validation" if document.id in held else "train"), document
    elif len(kept) > 1 or characters >= MIN_DIVISIBLE:
        yield from split_at(documents, tail_position(characters, config.validation))
    else:
        raise UserError(
            f"only one document is left, of {characters} characters; training and validation need at least two, or one "
            f"of {MIN_DIVISIBLE} characters: add documents to {_inputs(config)}, or loosen the filters"
        )


def _inputs(config: CorpusConfig) -> str:
    return ", ".join(map(str, config.inputs))


def _nothing_kept(folder: Path, config: CorpusConfig, counts: Counts) -> str:
    reasons = []
    for reason, documents in counts.most_frequent()[:3]:
        setting = REASONS[reason]
        reasons.append(f"{documents} {reason}" + (f" ({setting})" if setting else ""))
    files = counts.files_read + counts.files_unreadable
    passed = sum(counts.passed_over.values())
    with contextlib.suppress(StopIteration):
        next((folder / "rejected").glob("*.parquet"))
        reasons[-1] += f"; each is listed in {folder / 'rejected'}"
    return (
        f"{_inputs(config)}: no document is left from {files} files"
        + (f" ({passed} more are in formats that are not read)" if passed else "")
        + ": "
        + ", ".join(reasons)
    )
