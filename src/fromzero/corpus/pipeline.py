"""`build_corpus`: the whole stage, in the order in which it happens.

walk the inputs -> partitions -> the engine reads each: children parse, normalise, cut, judge and mask, the screens look
at what is left -> duplicates, exact and near, over all -> repeats inside of documents -> split -> shards
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromzero.artifact import Artifact, build
from fromzero.console import progress
from fromzero.corpus.counting import Counts, Tally
from fromzero.corpus.decontaminate import Decontamination, Match
from fromzero.corpus.document import DUPLICATE, NEAR_DUPLICATE, REASONS, Document
from fromzero.corpus.drafts import COUNTS, MATCHES, SIGNATURES, Known, rejected_row, rejected_writer
from fromzero.corpus.files import Found, clear, digest_inputs, find_files
from fromzero.corpus.near_duplicates import MinHash, find_near_duplicates, preference
from fromzero.corpus.partitions import partition, read_all
from fromzero.corpus.repeats import cut_repeats
from fromzero.corpus.screening import Screening, evaluation_index
from fromzero.corpus.settings import CorpusConfig
from fromzero.corpus.splitting import hold_out, split_at, tail_position
from fromzero.corpus.storing import DocumentWriter, ShardWriter, read_rows
from fromzero.corpus.worker import WorkSettings
from fromzero.errors import UserError
from fromzero.files import write_json
from fromzero.locations import shown

VERSION = 3
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
        digest_inputs(config.inputs, found) | Screening.of(config).digests(),
        lambda folder: _make(folder, found, config),
        version=VERSION,
        ignore=("inputs", "output", "workers", "memory_bytes", "engine", "engine_address"),
        scratch=WORK,
    )


def _make(folder: Path, found: Found, config: CorpusConfig) -> Mapping[str, Any]:
    parts, config = partition(found.files, folder / WORK), config.within_memory()
    work, screening = WorkSettings.of(config), Screening.of(config)
    with progress("reading documents", found.bytes, "B") as report:
        engine = config.engine, config.engine_address, config.workers
        read_all(parts, work, screening, config.near_duplicates, *engine, report)
    clear(folder, WORK)
    counts, folders = Counts(found.passed_over), [part.folder for part in parts]
    with rejected_writer(folder / "rejected") as rejected:
        chosen = _without_repeats(_distinct(folders, config.near_duplicates), config, folder / WORK, counts, rejected)
        _take_over(folders, counts, rejected)
    if not chosen.keep.any():
        raise UserError(_nothing_kept(folder, config, counts))
    summary = _write_sides(folder, config, counts, chosen)
    if screening.decontaminate:
        summary["decontamination"] = _list_matches(folder, folders, screening.decontaminate)
    write_json(folder / COUNTS, summary)
    return summary


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Documents of drafts, and which of them are kept."""

    folders: Sequence[Path]
    known: Known
    keep: NDArray[np.bool_]

    def rows(self, kept: bool = True) -> Iterator[dict[str, Any]]:
        """Those that are kept, or those that are not, in the order of the files."""
        rows = itertools.chain.from_iterable(read_rows(folder, "kept") for folder in self.folders)
        return itertools.compress(rows, self.keep if kept else ~self.keep)


def _distinct(folders: Sequence[Path], near: MinHash | None) -> tuple[_Chosen, NDArray[np.int64]]:
    """Of equal texts the first is kept, of nearly equal ones the longest, and of those the one with the smallest id.

    Also, for each document, the number of the one that is kept instead of it, which is often its own.
    """
    known = Known.of(folders)
    _, first, which = np.unique(known.ids, return_index=True, return_inverse=True)
    better = first[which]
    if near:
        ranks = preference(known.ids, known.characters)
        nearest = find_near_duplicates([folder / SIGNATURES for folder in folders], near, ranks)
        better = np.where(nearest == np.arange(len(nearest)), better, first[which[nearest]])
    return _Chosen(folders, known, better == np.arange(len(better))), better


def _without_repeats(
    found: tuple[_Chosen, NDArray[np.int64]], config: CorpusConfig, work: Path, counts: Counts, rejected: ShardWriter
) -> _Chosen:
    """Write the duplicates to what is rejected; what is kept, without the repeats that the settings name."""
    chosen, better = found
    ids = chosen.known.ids
    others = np.flatnonzero(~chosen.keep)
    for number, row in zip(others.tolist(), chosen.rows(kept=False), strict=True):
        kept = ids[better[number]].decode()
        reason = DUPLICATE if kept == row["id"] else f"{NEAR_DUPLICATE}: of {kept}"
        counts.reject(reason, int(chosen.known.bytes[number]))
        rejected.write(rejected_row(reason, row["source"], row["id"], row["text"]), int(chosen.known.bytes[number]))
    for unit in config.repeats:
        folder = work / f"without-{unit}s"
        if not folder.exists():
            cut_repeats(chosen.rows, unit, config.passage_bytes, config.filters, folder)
        _take_over([folder], counts, rejected)
        known = Known.of([folder])
        chosen = _Chosen([folder], known, np.ones(len(known.ids), bool))
    return chosen


def _take_over(folders: Sequence[Path], counts: Counts, rejected: ShardWriter) -> None:
    """Add what drafts counted and rejected."""
    for folder in folders:
        counts.add(json.loads((folder / COUNTS).read_text()))
        for row in read_rows(folder, "rejected"):
            rejected.write(row, len((row["text"] or "").encode()))


def _list_matches(folder: Path, drafts: Sequence[Path], settings: Decontamination) -> Mapping[str, Any]:
    """Write all documents that touch evaluation items, and sum them up by set."""
    with (folder / MATCHES).open("w", encoding="utf-8") as file:
        for draft in drafts:
            file.write((draft / MATCHES).read_text("utf-8"))
    with (folder / MATCHES).open(encoding="utf-8") as file:
        return evaluation_index(settings).summary(Match(**json.loads(line)) for line in file)


def _write_sides(folder: Path, config: CorpusConfig, counts: Counts, chosen: _Chosen) -> dict[str, Any]:
    """The documents go to the train or the validation shards."""
    with DocumentWriter(folder, "train") as train, DocumentWriter(folder, "validation") as validation:
        writers = {"train": train, "validation": validation}
        for side, document in _sides(_documents(chosen, counts), config, chosen):
            writers[side].write(document)
    tallies = {side: Tally(writer.documents, writer.bytes) for side, writer in writers.items()}
    halved = train.documents + validation.documents - int(chosen.keep.sum())
    return counts.summary(tallies, {side: writer.characters for side, writer in writers.items()}, halved)


def _documents(chosen: _Chosen, counts: Counts) -> Iterator[Document]:
    """What is kept, counted on the way."""
    for row in chosen.rows():
        counts.keep(row.pop("kind"), row["language"], len(row["text"].encode()))
        yield Document(**row | {"meta": dict(row["meta"])})


def _sides(documents: Iterator[Document], config: CorpusConfig, chosen: _Chosen) -> Iterator[tuple[str, Document]]:
    ids, sizes = chosen.known.ids[chosen.keep], chosen.known.bytes[chosen.keep]
    total = int(chosen.known.characters[chosen.keep].sum())
    if config.split == "random" and len(ids) > 1:
        held = hold_out(ids, sizes, config.validation, config.validation_max_bytes, config.seed)
        yield from (("validation" if out else "train", document) for out, document in zip(held, documents, strict=True))
    elif len(ids) > 1 or total >= MIN_DIVISIBLE:
        yield from split_at(documents, tail_position(total, config.validation))
    else:
        raise UserError(
            f"only one document is left, of {total} characters; training and validation need at least two, or one "
            f"of {MIN_DIVISIBLE} characters: add documents to {_inputs(config)}, or loosen the filters"
        )


def _inputs(config: CorpusConfig) -> str:
    return ", ".join(map(shown, config.inputs))


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
