"""The documentation on this machine as raw documents: a real corpus for a first run, without a network.

Read by code from what is installed: CPython's language reference (`pydoc_data.topics`), the pages that ship with the
standard library, and the docstrings of the standard library and of packages. Nothing of it is stored in this project;
`sources.json` beside the documents names each source with its version and licence.
"""

import ast
import contextlib
import dataclasses
import gc
import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact, build
from fromzero.console import progress, say
from fromzero.corpus.docstrings import (
    Entry,
    argument_names,
    plain_arguments,
    read_module,
    summary_of,
    to_markdown,
)
from fromzero.corpus.files import clear
from fromzero.errors import UserError
from fromzero.files import write_json

VERSION = 1
MIN_PAGE_BYTES = 300
_PAGES = (".html", ".txt", ".rst", ".md")
# Tests, other people's code that is carried along, and generated parsers document nothing that a user would ask about.
_SKIPPED_FOLDERS = {"test", "tests", "testing", "idle_test", "test-examples", "benchmarks", "turtledemo", "lib2to3"}
_SKIPPED_FOLDERS |= {"_vendor", "_bundled", "vendored", "third_party", "thirdparty", "site-packages", "dist-packages"}
_SKIPPED_FOLDERS |= {"__pycache__", "_antlr", "pydoc_data", "include", "share", "Icons"}
_SKIPPED_PAGES = (
    "license",
    "licence",
    "copying",
    "credits",
    "requirements",
    "grammar",
    "cmakelists",
    "history",
    "news",
)


@dataclasses.dataclass(frozen=True)
class DocumentationConfig:
    """Which documentation on this machine becomes documents."""

    output: Path
    """Folder for the documents."""
    packages: tuple[str, ...] = ("numpy", "torch", "sympy", "networkx", "mpmath")
    """Import names of installed packages, read beside Python's own documentation. Missing ones are skipped."""
    max_bytes: int = 16_000_000
    """Most text to collect, in bytes. Each source gets an equal share of what the ones before it left, and public
    modules go before private ones, so that the same packages always give the same documents."""

    def __post_init__(self) -> None:
        if self.max_bytes <= 0:
            raise UserError(f"max_bytes is {self.max_bytes}; it takes a number of bytes above 0")


@dataclasses.dataclass
class _Source:
    """A source while it is collected: what it is, and what came out of it."""

    name: str
    version: str | None
    license: str | None
    documents: int = 0
    bytes: int = 0


@dataclasses.dataclass(frozen=True)
class _Page:
    """One raw document: its place in the output, its bytes, and what it says about functions."""

    path: str
    data: bytes
    entries: tuple[Entry, ...] = ()


def collect_documentation(config: DocumentationConfig) -> Artifact:
    """Write the documentation on this machine into a folder of raw documents, an artifact of kind 'documents'.

    Beside the documents: `sources.json`, a list of {name, version, license, documents, bytes}, where a package that is
    not installed has version null; and `functions.json`, a list of {name, module, package, signature, arguments,
    summary} for public functions and classes whose arguments are known and whose documentation begins with a sentence.
    """
    sources = [_Source("python", platform.python_version(), "PSF-2.0"), *map(_package, config.packages)]
    versions = {source.name: source.version or "not installed" for source in sources}
    return build(
        config.output,
        "documents",
        config,
        versions,
        lambda folder: _make(folder, sources, config),
        version=VERSION,
        ignore=("output",),
    )


def _make(folder: Path, sources: list[_Source], config: DocumentationConfig) -> Mapping[str, Any]:
    clear(folder)
    functions: list[dict[str, Any]] = []
    left = config.max_bytes
    with progress("collecting documentation", config.max_bytes, "B") as report, _no_garbage_collection():
        for number, source in enumerate(sources):
            if source.version is None:
                say(f"the package {source.name} is not installed; its documentation is left out")
                continue
            for page in _within(_pages(source.name), left // (len(sources) - number)):
                path = folder / source.name / page.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(page.data)
                functions += _functions(page.entries, source.name)
                source.documents += 1
                source.bytes += len(page.data)
                report(config.max_bytes - left + source.bytes, source.name)
            left -= source.bytes
    functions = _distinct(functions)
    listed = [vars(source) for source in sources]
    write_json(folder / "sources.json", listed)
    write_json(folder / "functions.json", functions)
    total = {key: sum(source[key] for source in listed) for key in ("documents", "bytes")}
    return total | {"functions": len(functions), "sources": listed}


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Syntax trees are millions of objects and hold no cycles: looking for some takes a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _within(pages: Iterator[_Page], budget: int) -> Iterator[_Page]:
    """Pages in order until the next would go over the budget."""
    for page in pages:
        budget -= len(page.data)
        if budget < 0:
            return
        yield page


def _package(name: str) -> _Source:
    """A package's version and licence from its metadata; version None when it is not installed."""
    try:
        metadata: Any = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return _Source(name, None, None)
    classifiers = [c.rpartition("::")[2].strip() for c in metadata.get_all("Classifier", []) if c.startswith("License")]
    license_text = metadata.get("License-Expression") or ", ".join(classifiers) or metadata.get("License") or "unknown"
    return _Source(name, metadata["Version"] if _folder(name) else None, license_text.strip().split("\n")[0])


def _folder(package: str) -> Path | None:
    """Where a package's source is, found without importing it."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    return None


def _pages(source: str) -> Iterator[_Page]:
    """The raw documents of one source, the most useful first."""
    if source == "python":
        root = Path(sysconfig.get_path("stdlib"))
        yield from _topics(root / "pydoc_data" / "topics.py")
        yield from _shipped(root)
        yield from _modules(root, "")
    elif (folder := _folder(source)) is not None:
        yield from _shipped(folder)
        yield from _modules(folder, source)


def _topics(path: Path) -> Iterator[_Page]:
    """The language reference, which CPython carries as one dictionary of texts."""
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                for topic, text in sorted(ast.literal_eval(node.value).items()):
                    yield _Page(f"topics/{topic}.txt", text.encode())


def _shipped(root: Path) -> Iterator[_Page]:
    """Pages that lie beside the source: HTML, Markdown, reStructuredText and text, but no licences and no data."""
    for path in _files(root, _PAGES):
        name = path.name.lower()
        if not any(word in name for word in _SKIPPED_PAGES) and (data := _read(path)) and len(data) >= MIN_PAGE_BYTES:
            yield _Page(f"pages/{path.relative_to(root).as_posix()}", data)


def _modules(root: Path, package: str) -> Iterator[_Page]:
    """One Markdown page for each documented module: public modules first, then those nearer to the top."""
    named = [(_module_name(path.relative_to(root), package), path) for path in _files(root, (".py",))]
    for module, path in sorted(named, key=lambda item: (_privacy(item[0]), item[0].count("."), item[0])):
        source = _read(path).decode("utf-8", "replace")
        if '"""' not in source and "'''" not in source:
            continue
        if entries := read_module(source, module):
            data = to_markdown(entries).encode("utf-8", "replace")
            if len(data) >= MIN_PAGE_BYTES:
                yield _Page(f"modules/{module}.md", data, tuple(entries))


def _module_name(path: Path, package: str) -> str:
    parts = [package, *path.with_suffix("").parts] if package else list(path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _privacy(module: str) -> int:
    """0 for a public module, 1 for a private one; numpy and torch keep their public documentation in private ones."""
    documented = any(word in module for word in ("_docs", "_newdocs", "_core.", "_impl", "._tensor"))
    return int(any(part.startswith("_") for part in module.split(".")) and not documented)


def _files(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files below root with one of the suffixes, in sorted order, without the skipped folders."""
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            if entry.name not in _SKIPPED_FOLDERS and not entry.name.startswith((".", "config-")):
                yield from _files(entry, suffixes)
        elif entry.suffix in suffixes and entry.is_file():
            yield entry


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def _functions(entries: tuple[Entry, ...], package: str) -> Iterator[dict[str, Any]]:
    for entry in entries:
        summary = summary_of(entry.text)
        if entry.arguments is not None and "." not in entry.name and summary is not None:
            yield {
                "name": entry.name,
                "module": entry.module,
                "package": package,
                "signature": f"{entry.name}({plain_arguments(entry.arguments)})",
                "arguments": argument_names(entry.arguments),
                "summary": summary,
            }


def _distinct(functions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each name of each module once, sorted."""
    by_name: dict[tuple[str, str], dict[str, Any]] = {}
    for function in functions:
        by_name.setdefault((function["module"], function["name"]), function)
    return sorted(by_name.values(), key=lambda f: (f["package"], f["module"], f["name"]))
