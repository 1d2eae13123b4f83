"""Artifacts: the folders through which stages talk, and the manifests that say what is in them.

A stage calls `build(...)` with its settings, the digests of its inputs and a function that fills a folder.
What happens then depends on what is on disk:

    nothing there                                 -> make it
    finished, same settings, inputs and version   -> up to date: skipped, like `make`
    finished, but made from something else        -> rebuilt; trained models are set aside as NAME.previous
    unfinished, same settings                     -> the function is called again, to go on from what it finds
    unfinished, other settings                    -> emptied and made anew; a half-trained model is refused instead
    files that do not match the manifest          -> refused: a broken artifact is reported, never used
    a folder with something else in it            -> refused: nothing of the user's is ever overwritten

`manifest.json` is written last and atomically, so a folder without a valid one is unfinished by definition.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fromzero import __version__
from fromzero.console import say
from fromzero.errors import UserError
from fromzero.files import digest_file, digest_of, to_plain, write_json
from fromzero.locations import masked, shown, url_of
from fromzero.remote import MANIFEST, UNFINISHED, download, publish

FORMAT_VERSION = 1
_PACKAGES = ("fromzero", "torch", "numpy", "safetensors", "regex", "pyarrow", "trafilatura", "resiliparse", "pypdfium2")
_ADVICE = "restore it, or delete the folder and run its command again"
_COSTLY_KINDS = frozenset({"model"})  # set aside instead of deleted when a rebuild replaces them


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished, verified artifact folder."""

    path: Path
    """Its folder; of one that was built at a URL, the URL, whose files `open_artifact` brings here."""
    manifest: Mapping[str, Any]

    def __str__(self) -> str:
        """Where it is, for messages."""
        return shown(self.path)

    @property
    def kind(self) -> str:
        """'corpus', 'tokenizer', 'tokens', 'model' or 'report'."""
        return str(self.manifest["kind"])

    @property
    def digest(self) -> str:
        """SHA-256 over what is in the files (not over when or where they were made)."""
        return str(self.manifest["content"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The full settings that made it."""
        return dict(self.manifest["config"])

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the stage wants known about its result: counts, losses, sizes."""
        return dict(self.manifest["summary"])


def build(
    output: Path,
    kind: str,
    config: Any,
    inputs: Mapping[str, str],
    make: Callable[[Path], Mapping[str, Any]],
    *,
    version: int = 1,
    ignore: tuple[str, ...] = (),
    scratch: str = "",
) -> Artifact:
    """Bring the artifact at `output` up to date and return it.

    config: the stage's settings, a dataclass; recorded whole. `ignore` names the fields that do not change the result
    (where it is written, how many workers, the paths of inputs, whose contents count through `inputs` instead).
    inputs: name -> digest of everything that is read. version: raised by the stage's author whenever the same settings
    would give another result. make(folder): fills the folder, going on from what is already there, and returns the
    summary. scratch: a folder below `output` that is only needed until the artifact is finished (checkpoints); it is
    deleted after the manifest is written, and not before. Raises UserError in the cases that the module's docstring
    calls refused.
    """
    output = Path(output)
    settings = to_plain(config)
    kept = _without(settings, ignore)
    key = digest_of({"kind": kind, "version": version, "inputs": dict(inputs)}, kept)
    if url := url_of(output):

        def build_here(folder: Path) -> Artifact:
            return build(folder, kind, config, inputs, make, version=version, ignore=ignore, scratch=scratch)

        return Artifact(output, publish(url, kind, key, _parse_manifest, kind in _COSTLY_KINDS, build_here))
    if finished := _up_to_date(output, kind, key):
        return finished
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; name a folder for the {kind} with --output")
    if output.is_dir() and any(output.iterdir()) and not is_artifact(output):
        raise UserError(f"{output} holds something else than a {kind}; name another folder with --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with _lock(output):
        if finished := _up_to_date(output, kind, key):  # another process may have finished it in between
            return finished
        if (output / MANIFEST).exists():
            say(f"{output}: settings or inputs changed, building it anew")
            _set_aside(output, kind, scratch)
        output.mkdir(exist_ok=True)
        _claim(output, kind, key, {"version": version, **inputs, **kept})
        summary = make(output)
        finished = _finish(output, kind, key, version, settings, inputs, summary, scratch)
    if scratch:
        shutil.rmtree(output / scratch, ignore_errors=True)
    return finished


def _up_to_date(output: Path, kind: str, key: str) -> Artifact | None:
    if not (output / MANIFEST).exists():
        return None
    finished = open_artifact(output, kind)
    if finished.manifest["key"] != key:
        return None
    say(f"{output}: up to date")
    return finished


def open_artifact(path: Path, kind: str | None = None, *, hashes: bool = True) -> Artifact:
    """Open a finished artifact of that kind and check every file against its manifest.

    hashes: false to check no more than sizes, for who reads but little of what may be a hundred gigabytes.
    One at a URL is brought here first, and opened here. Raises UserError when it is missing, unfinished, of another
    kind, or does not match its manifest.
    """
    url = url_of(path := Path(path))
    path = download(url, kind, _parse_manifest) if url else path
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; it should hold a finished {kind or 'artifact'}")
    if not (path / MANIFEST).exists():
        if (path / UNFINISHED).exists():
            raise UserError(f"{path} is unfinished; run the command that makes it again, it goes on from there")
        raise UserError(f"{path} has no {MANIFEST}, so it is not a {kind or 'artifact'} made by fromzero")
    manifest = _read_manifest(path)
    if kind is not None and manifest["kind"] != kind:
        raise UserError(f"{path} is a {manifest['kind']}, not a {kind}")
    _verify_files(path, manifest["files"], hashes)
    return Artifact(path, manifest)


def here(path: Path) -> Path:
    """The path itself, or for the URL of an artifact its folder on this machine. Raises UserError."""
    return open_artifact(path).path if url_of(path) else path


def is_artifact(path: Path) -> bool:
    """Whether a folder is one of ours, finished or not (a reader of raw documents passes it over)."""
    return (path / UNFINISHED).exists() or _looks_like_manifest(path / MANIFEST)


def _looks_like_manifest(file: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(file.read_bytes())
        return isinstance(found, dict) and "fromzero_format" in found
    return False


def digest_source(path: Path) -> str:
    """SHA-256 of what is read from a path: of an artifact its digest, else of the paths and contents of all files.

    Raises UserError where there is no file.
    """
    if is_artifact(path):
        return open_artifact(path).digest
    files = sorted(file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    if not files:
        raise UserError(f"{path}: there is no file to read; name a file, or a folder with some")
    top = path if path.is_dir() else path.parent
    return digest_of([(file.relative_to(top).as_posix(), digest_file(file)) for file in files])


def _without(settings: Mapping[str, Any], ignore: tuple[str, ...]) -> dict[str, Any]:
    """The settings without the ignored fields; "train.log_every" names one inside a group."""
    top = {name.partition(".")[0] for name in ignore}
    assert top <= set(settings), f"ignored fields that the settings do not have: {top - set(settings)}"
    kept = {name: value for name, value in settings.items() if name not in ignore}
    for group in top & set(kept):
        kept[group] = {name: value for name, value in kept[group].items() if f"{group}.{name}" not in ignore}
    return kept


def _set_aside(output: Path, kind: str, scratch: str) -> None:
    """Make room for a rebuild. A trained model cost hours, so one generation of it is kept beside the new one."""
    _refuse_strangers(output, scratch)
    if kind in _COSTLY_KINDS:
        previous = output.with_name(output.name + ".previous")
        if previous.exists():
            open_artifact(previous)  # never delete what is not ours
            _refuse_strangers(previous, scratch)
            shutil.rmtree(previous)
        output.rename(previous)
        say(f"{previous}: holds the model that was there")
    else:
        (output / MANIFEST).unlink()  # first: from here on the folder counts as unfinished
        shutil.rmtree(output)


def _refuse_strangers(path: Path, scratch: str) -> None:
    """Raise UserError for a file that the manifest does not list: somebody put it there, and it must not be deleted."""
    known = {*_read_manifest(path)["files"], MANIFEST, UNFINISHED}
    for file in path.rglob("*"):
        name = file.relative_to(path).as_posix()
        if file.is_file() and name not in known and not (scratch and name.startswith(scratch + "/")):
            raise UserError(f"{file} is not part of what would be rebuilt in {path}; move it away and run again")


@contextlib.contextmanager
def _lock(output: Path) -> Iterator[None]:
    """Keep a second process out of the same folder. The lock dies with its process, so a kill leaves none behind."""
    try:
        import fcntl
    except ImportError:  # a system without flock: no second process is kept out there
        yield
        return
    path = output.with_name(f".{output.name}.lock")
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks
            held = True
        if not held:
            raise UserError(f"{output} is being built by another process; wait for it or name another folder")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: whoever opened it before finds another file in its place


def _claim(output: Path, kind: str, key: str, source: Mapping[str, Any]) -> None:
    """Mark the folder as ours and unfinished; empty it first if what is there was made from other settings.

    Raises UserError when that would throw away an unfinished model, or files of somebody else.
    """
    marker = output / UNFINISHED
    before = _marker(marker)
    found = before.get("key")
    if found == key:
        return
    others = [entry for entry in output.iterdir() if entry != marker]
    if others and found is None:
        raise UserError(f"{marker} was not written by fromzero or is damaged; name another folder, or delete this one")
    if others and kind in _COSTLY_KINDS:
        what = _first_change(before.get("source"), to_plain(source))
        raise UserError(
            f"{output} holds an unfinished {kind} with other settings{what}; delete it or name another folder"
        )
    if others:
        say(f"{output}: an unfinished {kind} with other settings is there, starting over")
    for entry in others:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    write_json(marker, {"kind": kind, "key": key, "source": source})


def _marker(marker: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(marker.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _first_change(before: Any, now: Any, name: str = "") -> str:
    """Which setting or input is not what it was, in brackets; '' when that can't be told."""
    if isinstance(before, dict) and isinstance(now, dict):
        changes = (_first_change(before.get(key), now.get(key), f"{name}.{key}") for key in {**now, **before})
        return next(filter(None, changes), "")
    return "" if before == now or not name else f" ({name[1:]} was {str(before)[:40]}, now it is {str(now)[:40]})"


def _finish(
    output: Path,
    kind: str,
    key: str,
    version: int,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    summary: Mapping[str, Any],
    scratch: str,
) -> Artifact:
    files = {}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_file() and name != UNFINISHED and not (scratch and name.startswith(scratch + "/")):
            files[name] = {"bytes": path.stat().st_size, "sha256": digest_file(path, sync=True)}
    manifest: dict[str, Any] = {
        "fromzero_format": FORMAT_VERSION,
        "kind": kind,
        "key": key,
        "content": digest_of(files),
        "version": version,
        "seed": settings.get("seed", (settings.get("train") or {}).get("seed")),
        "config": settings,
        "inputs": dict(inputs),
        "summary": to_plain(summary),
        "files": files,
        "packages": _package_versions(),
        "command": _command(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    manifest["self"] = digest_of(manifest)
    write_json(output / MANIFEST, manifest)
    (output / UNFINISHED).unlink()
    return Artifact(output, manifest)


def _command() -> str:
    """What was typed, when it was a command of ours; else which program called us."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py" or program.stem == "fromzero":
        return masked(shlex.join(["fromzero", *sys.argv[1:]]))
    return f"called from Python ({program.name or 'interactive'})"


def _package_versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0], "fromzero": __version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return _parse_manifest((path / MANIFEST).read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path / MANIFEST} can't be read ({error}); {_ADVICE}") from error


def _parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}/{MANIFEST} can't be read ({error}); {_ADVICE}") from error
    if not isinstance(manifest, dict) or "fromzero_format" not in manifest:
        raise UserError(f"{where}/{MANIFEST} is not a manifest of fromzero; name another folder")
    if manifest["fromzero_format"] != FORMAT_VERSION:
        found = manifest["fromzero_format"]
        raise UserError(f"{where} has format {found}, this version reads {FORMAT_VERSION}; build it again")
    stated = manifest.pop("self", None)
    if stated != digest_of(manifest):
        raise UserError(f"{where}/{MANIFEST} was changed after it was written; {_ADVICE}")
    return manifest


def _verify_files(path: Path, files: Mapping[str, Mapping[str, Any]], hashes: bool) -> None:
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file} is missing, though {MANIFEST} lists it; {_ADVICE}")
        if file.stat().st_size != expected["bytes"] or (hashes and digest_file(file) != expected["sha256"]):
            raise UserError(f"{file} does not match its hash in {MANIFEST}: it was changed or damaged; {_ADVICE}")
