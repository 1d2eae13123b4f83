"""The settings of the corpus stage, with the reason for each default."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from fromzero.corpus.decontaminate import Decontamination
from fromzero.corpus.lists import Lists
from fromzero.corpus.masking import Masking
from fromzero.corpus.near_duplicates import MinHash
from fromzero.corpus.rules import RULES
from fromzero.errors import UserError, nearest

BASE_BYTES, WORKER_BYTES, LEAST_PARSE_BYTES = 400_000_000, 250_000_000, 600_000_000
"""Memory of the process that is started, of each that reads, and the least for one that parses: .44 GB are programs."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one file may cost. A file that costs more is rejected with the reason, and the rest goes on."""

    file_bytes: int = 100_000_000
    """Largest file that has to be parsed whole, in bytes: HTML, PDF, Word, EPUB, JSON, and what archives hold of
    Parquet and further archives. Text, JSON lines, CSV, Parquet, WARC and the members of archives are streams."""
    document_bytes: int = 64_000_000
    """Largest single record, in bytes of UTF-8; for text files when `cut_characters` is null only."""
    unpacked_ratio: float = 200.0
    """How many times its size (and `document_bytes` more) a compressed file may hold, on all levels of archives in
    archives together. Text has 3 to 30 times, bombs from 1,000 to millions."""
    nesting: int = 4
    """Deepest nesting of archives and compressed files: a `.tar.gz` has two levels."""
    parse_seconds: float = 60.0
    """Longest time until the next document of a file is ready, in seconds."""
    parse_memory_bytes: int = 4_000_000_000
    """Address space of a parsing process, in bytes (not limited on systems that can't)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise UserError(f"limits.{field.name} is {getattr(self, field.name)}; it takes a number above 0")


@dataclasses.dataclass(frozen=True)
class Filters:
    """Limits of the quality filters, each of which null switches off. Those named here drop what is broken, and keep
    poems, tables and code; `corpus.rules` has a table of all."""

    profile: Literal["documents", "web"] = "documents"
    """documents: no other rules than those named here. web: also those of Gopher, C4 and FineWeb, or for Chinese of
    FineWeb2 and ChineseWebText, which drop from crawled pages what is not prose."""
    limits: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    """Limits of any rules, by name, that are to be others than the profile's: {max_top_2grams: 0.25}."""
    languages: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)
    """The same for texts in one language: {de: {max_mean_word_length: 12}}."""
    min_length: int | None = 50
    """Least length in characters, where an ideograph counts as three: it says about as much as three letters do.
    Fifty is one sentence of English, and lets a Tang quatrain of twenty characters (counted as 64) pass."""
    max_undecodable: float | None = 0.01
    """Largest share of U+FFFD, the mark of bytes that could not be decoded. Damaged scans have more."""
    min_letters: float | None = 0.3
    """Least share of letters and ideographs among the characters that are not blank. Prose has .95, code .6 to .8,
    documentation full of printed matrices .4; dumps of numbers have less than .1."""
    min_word_length: float | None = 2.0
    """Least mean length of a word, in characters (Gopher: 3, which drops poems and dialogue in short words). For text
    in scripts that put spaces between words only."""
    max_word_length: float | None = 15.0
    """Largest mean length of a word, in characters (Gopher: 10, which drops pages of dotted names and addresses)."""
    max_repeated_lines: float | None = 0.6
    """Largest share of characters in lines that stood before in the same document, the first copy not counted. Gopher
    has .2 for web pages, Dolma .3; reference documentation, which describes the same argument at each function, and
    songs with a refrain reach .5."""
    min_compressed: float | None = 0.08
    """Least size after DEFLATE compression (zlib, level 1), as a share of the size before: catches repetition that
    is not in lines. Prose has .35 to .5, tables of contents .15, one phrase over and over .01."""

    def __post_init__(self) -> None:
        for name in ("max_undecodable", "min_letters", "max_repeated_lines", "min_compressed"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise UserError(f"filters.{name} is {getattr(self, name)}; it takes a share between 0 and 1")
        for place, limits in {
            "limits": self.limits,
            **{f"languages.{k}": v for k, v in self.languages.items()},
        }.items():
            if unknown := [name for name in limits if name not in RULES]:
                raise UserError(f"filters.{place}: there is no rule '{unknown[0]}'{nearest(unknown[0], RULES)}")


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """How a folder of documents becomes a corpus."""

    inputs: tuple[Path, ...]
    """Files and folders of documents: text, Markdown, HTML, PDF, Word, EPUB, JSON, CSV, Parquet, WARC, and archives and
    compressed files of these. Folders are read with all their subfolders; hidden files and folders that fromzero made
    are passed over."""
    output: Path
    """Folder for the corpus."""
    workers: int = 0
    """Reading processes; 0 means one for each core. The result does not depend on it."""
    engine: Literal["native", "ray"] = "native"
    """Where they run: on this machine, or on a Ray cluster (install `fromzero[cluster]`). The result is the same."""
    engine_address: str = ""
    """Address of the cluster, whose machines see all paths, as in ray://head:10001; empty starts Ray here."""
    memory_bytes: int | None = None
    """What all processes on this machine may take together, in bytes, but for 100 bytes a document: fewer of them run,
    with less for parsing each, where that is needed. null: as much as `workers` and `limits.parse_memory_bytes` say."""
    validation: float = 0.05
    """Share of the text held out for validation."""
    validation_max_bytes: int = 2_000_000
    """Largest held-out part for `split: random`, in bytes. Two megabytes are some 500,000 tokens: the standard error
    of a loss measured on them is below 0.5 %, and measuring stays a matter of seconds."""
    split: Literal["random", "tail"] = "random"
    """random: whole documents, chosen by a hash of their text. tail: the last characters in reading order, cutting the
    document in which the share begins (the 90/10 split of nanoGPT, with `validation: 0.1`)."""
    seed: int = 0
    """Which documents `split: random` chooses."""
    cut_characters: int | None = 200_000
    """Longer documents are cut into parts of at most this many characters, at the end of a paragraph if there is one,
    else of a line, else at a space. null: never cut."""
    normalize: bool = True
    """Unify Unicode (NFC), line ends and blank lines, and drop control characters. false: keep every character."""
    repair: bool = False
    """Put right what was decoded with the wrong encoding and saved again ('cafÃ©'), line by line. Off, since it takes
    as long as all rules together."""
    html: Literal["precise", "fast"] = "precise"
    """How the main text of a web page is found: precise (trafilatura), or fast (resiliparse, ten times faster, loses
    some lists and tables)."""
    text_key: str = "text"
    """Key or column of JSON and Parquet files that holds the text, or a list of its lines; 'content' is tried next."""
    heading_keys: tuple[str, ...] = ()
    """Keys or columns that are put before the text, one a line: a title and an author, say."""
    limits: Limits = Limits()
    """What one file may cost."""
    filters: Filters = Filters()
    """Thresholds of the quality filters."""
    keep_languages: tuple[str, ...] = ()
    """Languages to keep, in two letters, as in [en, zh]; empty for all."""
    lists: Lists | None = None
    """Domains, addresses and words of documents to drop, in files of yours."""
    classifiers: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Language, or any -> classifier that judges the texts in it, as `corpus train-classifier` makes it."""
    ngrams: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Language, or any -> model, as `corpus train-ngrams` makes it, whose bucket of high perplexity is dropped."""
    decontaminate: Decontamination | None = None
    """Evaluation sets: documents that hold an item are dropped, and all that touch one are listed."""
    masking: Masking | None = None
    """What stands in the place of personal data: `masking: {}` puts [email], [phone] ...; null leaves it as it is."""
    near_duplicates: MinHash | None = dataclasses.field(default_factory=MinHash)
    """How texts that are nearly the same are found, of which the longest is kept; null keeps all but exact copies. On
    both sides of the split they would make a model look better than it is."""
    repeats: tuple[Literal["paragraph", "line", "passage"], ...] = ()
    """What is cut out of a document when another has it: paragraphs or lines that are not short, or passages, whatever
    lines they are in."""
    passage_bytes: int = 200
    """Least length of such a passage, in bytes. 200 are about 50 tokens of English."""

    def within_memory(self) -> "CorpusConfig":
        """The same with as many workers, and as much for parsing, as `memory_bytes` has room for."""
        if self.memory_bytes is None:
            return self
        room = self.memory_bytes - BASE_BYTES
        workers = min(self.workers or os.cpu_count() or 1, room // (WORKER_BYTES + LEAST_PARSE_BYTES))
        parse = min(self.limits.parse_memory_bytes, room // workers - WORKER_BYTES)
        limits = dataclasses.replace(self.limits, parse_memory_bytes=parse)
        return dataclasses.replace(self, workers=workers, limits=limits)

    def __post_init__(self) -> None:
        if not self.inputs:
            raise UserError("inputs is empty; name files or folders of documents, as in --inputs '[docs, more.pdf]'")
        if self.workers < 0:
            raise UserError(f"workers is {self.workers}; it takes a number of processes, or 0 for one for each core")
        if self.memory_bytes is not None and self.memory_bytes < BASE_BYTES + WORKER_BYTES + LEAST_PARSE_BYTES:
            least = BASE_BYTES + WORKER_BYTES + LEAST_PARSE_BYTES
            raise UserError(f"memory_bytes is {self.memory_bytes}; it takes at least {least:,}, or null for any")
        if not 0 < self.validation < 1:
            raise UserError(f"validation is {self.validation}; it takes a share between 0 and 1, as in 0.05")
        if self.validation_max_bytes <= 0:
            raise UserError(f"validation_max_bytes is {self.validation_max_bytes}; it takes a number above 0")
        if self.cut_characters is not None and self.cut_characters < 100:
            raise UserError(f"cut_characters is {self.cut_characters}; it takes at least 100, or null for never")
        if self.passage_bytes < 16:
            raise UserError(f"passage_bytes is {self.passage_bytes}; it takes at least 16")
