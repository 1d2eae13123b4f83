"""`build_corpus`: the whole stage, in the order in which it happens.

walk the inputs -> children read, normalise, cut and judge -> exact deduplication -> spool on disk -> split -> shards
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact, build, write_json
from fromzero.console import Reporter, progress
from fromzero.corpus.counting import Counts, Tally
from fromzero.corpus.document import DUPLICATE, REASONS, Document
from fromzero.corpus.files import Found, SourceFile, clear, digest_inputs, find_files
from fromzero.corpus.pool import Pool
from fromzero.corpus.settings import CorpusConfig
from fromzero.corpus.splitting import hold_out, split_at, tail_position
from fromzero.corpus.storing import DocumentWriter, ShardWriter, read_documents
from fromzero.corpus.worker import WorkSettings
from fromzero.errors import UserError

VERSION = 1
"""Raised whenever the same settings would give another corpus."""
SPOOL = ".spool"
MIN_DIVISIBLE = 2_000
"""Characters: a corpus of one document is held out from its end if it is at least this long."""


def build_corpus(config: CorpusConfig) -> Artifact:
    """Turn files and folders of documents into a corpus: Parquet shards of clean text, and the reasons for the rest.

    The result depends on the contents of the inputs and on the settings, and not on the number of workers. Raises
    UserError when there is nothing to read, or when too little is left for a train and a validation part.
    """
    found = find_files(config.inputs, config.output)
    return build(
        config.output,
        "corpus",
        config,
        digest_inputs(config.inputs, found),
        lambda folder: _make(folder, found, config),
        version=VERSION,
        ignore=("inputs", "output", "workers"),
    )


def _make(folder: Path, found: Found, config: CorpusConfig) -> Mapping[str, Any]:
    clear(folder)
    counts = Counts(found.passed_over)
    try:
        sizes, characters = _read(folder, found, config, counts)
        if not sizes:
            raise UserError(_nothing_kept(folder, config, counts))
        summary = _write_sides(folder, config, counts, sizes, characters)
    finally:
        shutil.rmtree(folder / SPOOL, ignore_errors=True)
    write_json(folder / "counts.json", summary)
    return summary


def _read(folder: Path, found: Found, config: CorpusConfig, counts: Counts) -> tuple[list[tuple[str, int]], int]:
    """First pass: every document is judged, the kept ones are spooled. Returns their ids and bytes, and characters."""
    sizes: list[tuple[str, int]] = []
    seen: set[bytes] = set()
    with (
        progress("reading documents", found.bytes, "B") as report,
        DocumentWriter(folder / SPOOL, "kept") as kept,
        ShardWriter(
            folder / "rejected", "rejected", dict.fromkeys(("id", "source", "reason", "text"), "string")
        ) as bin_,
    ):
        for file, answer in _answers(found, config, counts, report):
            size = len((answer.get("text") or "").encode())
            if answer["reason"] is None and (key := bytes.fromhex(answer["id"])) in seen:
                answer["reason"] = DUPLICATE
            if answer["reason"] is not None:
                counts.reject(answer["reason"], size)
                bin_.write(_rejected_row(file, answer), size)
                continue
            seen.add(key)
            document = Document(
                answer["id"], answer["text"], file.source, answer["url"], answer["language"], answer["meta"]
            )
            kept.write(document)
            counts.keep(file.kind, document.language, size)
            sizes.append((document.id, size))
    return sizes, kept.characters


def _answers(
    found: Found, config: CorpusConfig, counts: Counts, report: Reporter
) -> Iterator[tuple[SourceFile, dict[str, Any]]]:
    """What the children say about each document, in file order; files are counted on the way."""
    done = size = 0
    readable = False
    with Pool(WorkSettings.of(config), config.workers or os.cpu_count() or 1) as pool:
        for file, answer in pool.parse(found.files):
            if answer is None:
                counts.file(file.kind, file.bytes, readable)
                done, size, readable = done + file.bytes, 0, False
                report(done)
                continue
            size += len(answer.get("text") or "")
            readable = readable or "text" in answer
            counts.cut += answer.get("meta", {}).get("part") == "1"
            report(done + min(size, file.bytes))
            yield file, answer


def _rejected_row(file: SourceFile, answer: Mapping[str, Any]) -> dict[str, Any]:
    name = f"{file.source}: {answer['reason']}"
    return {
        "id": answer.get("id") or hashlib.sha256(name.encode()).hexdigest()[:32],
        "source": file.source,
        "reason": answer["reason"],
        "text": answer.get("text"),
    }


def _write_sides(
    folder: Path, config: CorpusConfig, counts: Counts, sizes: list[tuple[str, int]], characters: int
) -> dict[str, Any]:
    """Second pass: the spooled documents go to the train or the validation shards."""
    with DocumentWriter(folder, "train") as train, DocumentWriter(folder, "validation") as validation:
        writers = {"train": train, "validation": validation}
        for side, document in _sides(folder / SPOOL, config, sizes, characters):
            writers[side].write(document)
    tallies = {side: Tally(writer.documents, writer.bytes) for side, writer in writers.items()}
    halved = train.documents + validation.documents - len(sizes)
    return counts.summary(tallies, {side: writer.characters for side, writer in writers.items()}, halved)


def _sides(
    spool: Path, config: CorpusConfig, sizes: list[tuple[str, int]], characters: int
) -> Iterator[tuple[str, Document]]:
    documents = read_documents(spool, "kept")
    if config.split == "random" and len(sizes) > 1:
        held = hold_out(sizes, config.validation, config.validation_max_bytes, config.seed)
        for document in documents:
            yield ("validation" if document.id in held else "train"), document
    elif len(sizes) > 1 or characters >= MIN_DIVISIBLE:
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
