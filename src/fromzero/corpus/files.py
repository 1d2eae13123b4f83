"""Which files are read, in which order, and what they hold: the walk over the inputs."""

import collections
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fromzero.artifact import MANIFEST, UNFINISHED, is_artifact
from fromzero.errors import UserError
from fromzero.files import digest_file, digest_of
from fromzero.locations import at, name_of, shown, url_of

_PLAIN = "html pdf docx epub json jsonl csv parquet warc zip tar gz zst bz2 xz"
KINDS = {f".{kind}": kind for kind in _PLAIN.split()}
KINDS |= dict.fromkeys((".txt", ".text", ".rst"), "text") | dict.fromkeys((".md", ".markdown"), "markdown")
KINDS |= {".htm": "html", ".xhtml": "html", ".ndjson": "jsonl", ".tsv": "csv", ".wet": "warc", ".tgz": "gz"}
_NO_FILE = "links that lead nowhere, pipes and devices"
# What systems tell that changes with a file's contents, the surest first.
_MARKS = ("ETag", "blob_id", "Content-MD5", "Digest", "Last-Modified", "LastModified", "mtime", "created")


def kind_of(name: str) -> str | None:
    """The kind of a file by its suffix, or None for one that is not read."""
    return KINDS.get(os.path.splitext(name.lower())[1])


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that will be read."""

    path: Path
    """Of a file at a URL: where the URL stands for a path until it is fetched."""
    source: str
    """Its name in the corpus: the input's name and the path below it, with forward slashes."""
    kind: str
    """One of the values of KINDS: that of the compression for a compressed file."""
    bytes: int
    """Zero when a server does not tell it."""
    url: str = ""
    mark: str = ""
    """Of a file at a URL: what stands for its contents, such as its ETag."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a walk over the inputs found."""

    files: tuple[SourceFile, ...]
    passed_over: dict[str, int]
    """Suffix -> number of files that are not in a known format."""

    @property
    def bytes(self) -> int:
        """Size of all files that will be read."""
        return sum(file.bytes for file in self.files)


def find_files(inputs: Sequence[Path], output: Path) -> Found:
    """The files of all inputs, sorted by their names in the corpus; `output` is never read.

    Raises UserError for an input that does not exist, and when there is nothing to read.
    """
    files: list[SourceFile] = []
    passed_over: collections.Counter[str] = collections.Counter()
    seen: set[str] = set()
    for root in map(Path, inputs):
        url = url_of(root)
        if not url and not root.exists():
            raise UserError(f"{root}: no such file or folder; --inputs takes documents that exist")
        everything = _remote(url, output, seen) if url else _local(root, output, seen, passed_over)
        for file in everything:
            if file.kind:
                files.append(file)
            else:
                passed_over[Path(file.source).suffix.lower() or "no suffix"] += 1
    files.sort(key=lambda file: file.source)  # so that the order of the inputs can't be seen in the corpus
    found = Found(tuple(files), dict(sorted(passed_over.items())))
    if not files:
        raise UserError(_nothing(inputs, found))
    return found


def digest_inputs(inputs: Sequence[Path], found: Found) -> dict[str, str]:
    """For each input, the SHA-256 of the list of its files with the SHA-256 of each: the contents, not the place.

    At a URL, what the server tells instead of the SHA-256: reading everything twice would take as long as the build.
    """
    digests: dict[str, str] = {}
    for number, root in enumerate(map(Path, inputs)):
        below = [f for f in found.files if f.path == root or root in f.path.parents]
        listing = [[file.source, file.mark or _digest(file.path)] for file in below]
        digests[f"{number}: {_name(root)}"] = digest_of(listing)
    return digests


def clear(folder: Path, *kept: str) -> None:
    """Remove what an interrupted run left in an unfinished artifact, but for the entries that the next one needs."""
    for entry in folder.iterdir():
        if entry.name not in (UNFINISHED, *kept):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError as error:  # reading it will fail as well, and say so in the rejected documents
        return f"unreadable: {error.strerror}"


def _local(root: Path, output: Path, seen: set[str], passed_over: dict[str, int]) -> Iterator[SourceFile]:
    for path in _walk(root, output, seen, passed_over):
        yield SourceFile(path, _source(root, path), kind_of(path.name) or "", path.stat().st_size)


def _remote(root: str, output: Path, seen: set[str]) -> Iterator[SourceFile]:
    """The walk by the same rules at a URL, where nothing leads round in circles. Raises UserError."""
    scheme = root.partition("://")[0]
    with at(root) as (system, top):
        system.invalidate_cache()
        info = system.info(top)
        if info["type"] != "directory":
            if root not in seen:
                seen.add(root)
                yield _at_url(system, root, info, name_of(root))
            return
        for folder, folders, entries in system.walk(top, detail=True, on_error="raise"):
            for name in [name for name in folders if name.startswith(".")]:
                del folders[name]
            place = f"{scheme}://{folder.lstrip('/')}"
            if place == url_of(output) or (folder != top and _is_artifact_there(system, entries)):
                folders.clear()
                continue
            source = name_of(root) + folder[len(top) :]
            for name in _wanted(entries):
                if (url := f"{place}/{name}") not in seen and entries[name]["type"] == "file":
                    seen.add(url)
                    yield _at_url(system, url, entries[name], f"{source}/{name}")


def _at_url(system: Any, url: str, info: Mapping[str, Any], source: str) -> SourceFile:
    """A file by what its server says about it; where that is nothing that changes with the contents, they are read."""
    mark = next((f"{name} {info[name]}" for name in _MARKS if info.get(name)), "")
    if not mark:
        with system.open(info["name"], "rb") as stream:
            mark = hashlib.file_digest(stream, "sha256").hexdigest()
    size = info.get("size") or 0
    return SourceFile(Path(url), source, kind_of(source) or "", size, url, f"{mark} {size}")


def _is_artifact_there(system: Any, entries: Mapping[str, Any]) -> bool:
    if UNFINISHED in entries or MANIFEST not in entries:
        return UNFINISHED in entries
    with system.open(entries[MANIFEST]["name"], "rb", block_size=1 << 16) as stream:
        return b"fromzero_format" in stream.read(64)


def _walk(root: Path, output: Path, seen: set[str], passed_over: dict[str, int]) -> Iterator[Path]:
    """Regular files below root, each once, however many links lead to it; folders that can't be opened are counted."""
    if root.is_file():
        yield from _once([root], seen)
    elif _enter(root, output, seen):
        try:
            names = _wanted(os.listdir(root))
        except OSError:
            passed_over["folders that may not be read"] = passed_over.get("folders that may not be read", 0) + 1
            return
        children = [root / name for name in names]
        yield from _once([child for child in children if os.path.isfile(child)], seen)
        for child in children:
            if os.path.isdir(child) and not is_artifact(child):
                yield from _walk(child, output, seen, passed_over)
            elif not os.path.isfile(child) and not os.path.isdir(child):
                passed_over[_NO_FILE] = passed_over.get(_NO_FILE, 0) + 1


def _wanted(names: Iterable[str]) -> list[str]:
    """The entries of a folder that are not hidden, in order."""
    kept = sorted(name for name in names if name and not name.startswith("."))
    if MANIFEST in kept:  # an artifact of raw documents: the JSON beside them is about them, not one of them
        kept = [name for name in kept if not name.endswith(".json")]
    return kept


def _once(files: list[Path], seen: set[str]) -> Iterator[Path]:
    for file in files:
        if (real := os.path.realpath(file)) not in seen:
            seen.add(real)
            yield file


def _enter(folder: Path, output: Path, seen: set[str]) -> bool:
    """Whether to read a folder: not the output, not one that was read before (a link up would never end)."""
    real = os.path.realpath(folder)
    if real in seen or real == os.path.realpath(output):
        return False
    seen.add(real)
    return True


def _name(root: Path) -> str:
    url = url_of(root)
    return name_of(url) if url else root.name or root.resolve().name or "root"


def _source(root: Path, path: Path) -> str:
    below = path.relative_to(root).as_posix()
    name = _name(root) if below == "." else f"{_name(root)}/{below}"
    return os.fsencode(name).decode("utf-8", "replace")  # a name that is not UTF-8 can't be stored as it is


def _nothing(inputs: Sequence[Path], found: Found) -> str:
    where = ", ".join(shown(Path(root)) for root in inputs)
    known = " ".join(KINDS)
    if not found.passed_over:
        return f"{where}: no files to read there; put documents into it ({known})"
    kinds = sorted(found.passed_over.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{count} {suffix}" for suffix, count in kinds[:5])
    total = sum(found.passed_over.values())
    return f"{where}: {total} files there, none in a format that is read ({listed}); the formats are {known}"
