"""Artifacts: the folders through which stages talk, and the manifests that say what is in them.

A stage calls `build(...)` with its settings, the digests of its inputs and a function that fills a folder.
What happens then depends on what is on disk:

    nothing there                                 -> make it
    finished, same settings, inputs and version   -> up to date: skipped, like `make`
    finished, but made from something else        -> rebuilt; trained models are set aside as NAME.previous
    unfinished, same settings                     -> the function is called again, to go on from what it finds
    unfinished, other settings                    -> emptied and made anew
    files that do not match the manifest          -> refused: a broken artifact is reported, never used
    a folder with something else in it            -> refused: nothing of the user's is ever overwritten

`manifest.json` is written last and atomically, so a folder without a valid one is unfinished by definition.
"""

import contextlib
import dataclasses
import hashlib
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

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
FORMAT_VERSION = 1
_PACKAGES = (
    "fromzero",
    "torch",
    "numpy",
    "safetensors",
    "regex",
    "pyarrow",
    "trafilatura",
    "resiliparse",
    "pypdfium2",
)
_COSTLY_KINDS = frozenset({"model"})  # set aside instead of deleted when a rebuild replaces them


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A finished, verified artifact folder."""

    path: Path
    manifest: Mapping[str, Any]

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
) -> Artifact:
    """Bring the artifact at `output` up to date and return it.

    config: the stage's settings, a dataclass; recorded whole. `ignore` names the fields that do not change the result
    (where it is written, how many workers, the paths of inputs, whose contents count through `inputs` instead).
    inputs: name -> digest of everything that is read. version: raised by the stage's author whenever the same settings
    would give another result. make(folder): fills the folder, going on from what is already there, and returns the
    summary. Raises UserError in the cases that the module's docstring calls refused.
    """
    output = Path(output)
    settings = to_plain(config)
    key = digest_of({"kind": kind, "version": version, "inputs": dict(inputs)}, _without(settings, ignore))
    if (output / MANIFEST).exists():
        finished = open_artifact(output, kind)
        if finished.manifest["key"] == key:
            say(f"{output}: up to date")
            return finished
        say(f"{output}: settings or inputs changed, building it anew")
        _set_aside(output, kind)
    elif output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; name a folder for the {kind} with --output")
    elif output.is_dir() and any(output.iterdir()) and not (output / UNFINISHED).exists():
        raise UserError(f"{output} holds something else than a {kind}; name another folder with --output")
    output.mkdir(parents=True, exist_ok=True)
    with _lock(output):
        _claim(output, kind, key)
        summary = make(output)
        return _finish(output, kind, key, version, settings, inputs, summary)


def open_artifact(path: Path, kind: str | None = None) -> Artifact:
    """Open a finished artifact of that kind and check every file against its manifest.

    Raises UserError when it is missing, unfinished, of another kind, or does not match its manifest.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; it should hold a finished {kind or 'artifact'}")
    if not (path / MANIFEST).exists():
        if (path / UNFINISHED).exists():
            raise UserError(f"{path} is unfinished; run the command that makes it again, it goes on from there")
        raise UserError(f"{path} has no {MANIFEST}, so it is not a {kind or 'artifact'} made by fromzero")
    manifest = _read_manifest(path)
    if kind is not None and manifest["kind"] != kind:
        raise UserError(f"{path} is a {manifest['kind']}, not a {kind}")
    _verify_files(path, manifest["files"])
    return Artifact(path, manifest)


def is_artifact(path: Path) -> bool:
    """Whether a folder is one of ours, finished or not (a reader of raw documents passes it over)."""
    return (path / UNFINISHED).exists() or _looks_like_manifest(path / MANIFEST)


def _looks_like_manifest(file: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return "fromzero_format" in json.loads(file.read_bytes())
    return False


def to_plain(value: Any) -> Any:
    """Settings as JSON can hold them: dataclasses become mappings, paths become strings with forward slashes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    return value.as_posix() if isinstance(value, Path) else value


def digest_of(*values: Any) -> str:
    """SHA-256 of values in canonical JSON."""
    text = json.dumps([to_plain(v) for v in values], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a kill at any moment leaves the old file or the new one, never half of one."""
    write_text(path, json.dumps(to_plain(value), indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system lets a folder be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _without(settings: Mapping[str, Any], ignore: tuple[str, ...]) -> dict[str, Any]:
    """The settings without the ignored fields; "train.log_every" names one inside a group."""
    top = {name.partition(".")[0] for name in ignore}
    assert top <= set(settings), f"ignored fields that the settings do not have: {top - set(settings)}"
    kept = {name: value for name, value in settings.items() if name not in ignore}
    for group in top & set(kept):
        kept[group] = {name: value for name, value in kept[group].items() if f"{group}.{name}" not in ignore}
    return kept


def _set_aside(output: Path, kind: str) -> None:
    """Make room for a rebuild. A trained model cost hours, so one generation of it is kept beside the new one."""
    if kind in _COSTLY_KINDS:
        previous = output.with_name(output.name + ".previous")
        if previous.exists():
            open_artifact(previous)  # never delete what is not ours
            shutil.rmtree(previous)
        output.rename(previous)
        say(f"{previous}: holds the model that was there")
    else:
        (output / MANIFEST).unlink()  # first: from here on the folder counts as unfinished
        shutil.rmtree(output)


@contextlib.contextmanager
def _lock(output: Path) -> Iterator[None]:
    """Keep a second process out of the same folder. The lock dies with its process, so a kill leaves none behind."""
    with (output / UNFINISHED).open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # a system without flock: no second process is kept out there
            pass
        except BlockingIOError:
            raise UserError(f"{output} is being built by another process; wait for it or name another folder") from None
        yield


def _claim(output: Path, kind: str, key: str) -> None:
    """Mark the folder as ours and unfinished; empty it first if what is there was made from other settings."""
    marker = output / UNFINISHED
    if marker.stat().st_size and _marker_key(marker) != key:
        say(f"{output}: an unfinished {kind} with other settings is there, starting over")
        for entry in output.iterdir():
            if entry != marker:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    marker.write_text(json.dumps({"kind": kind, "key": key}))  # in place, not renamed: the open file holds the lock


def _marker_key(marker: Path) -> str | None:
    with contextlib.suppress(ValueError, AttributeError):
        return json.loads(marker.read_text()).get("key")
    return None


def _finish(
    output: Path,
    kind: str,
    key: str,
    version: int,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    summary: Mapping[str, Any],
) -> Artifact:
    files = {
        p.relative_to(output).as_posix(): {"bytes": p.stat().st_size, "sha256": digest_file(p)}
        for p in sorted(output.rglob("*"))
        if p.is_file() and p.name != UNFINISHED
    }
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
        return shlex.join(["fromzero", *sys.argv[1:]])
    return f"called from Python ({program.name or 'interactive'})"


def _package_versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0], "fromzero": __version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _read_manifest(path: Path) -> dict[str, Any]:
    advice = "restore it, or delete the folder and run its command again"
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (ValueError, OSError) as error:
        raise UserError(f"{path / MANIFEST} can't be read ({error}); {advice}") from error
    if not isinstance(manifest, dict) or "fromzero_format" not in manifest:
        raise UserError(f"{path / MANIFEST} is not a manifest of fromzero; name another folder")
    if manifest["fromzero_format"] != FORMAT_VERSION:
        found = manifest["fromzero_format"]
        raise UserError(f"{path} has format {found}, this version reads {FORMAT_VERSION}; build it again")
    stated = manifest.pop("self", None)
    if stated != digest_of(manifest):
        raise UserError(f"{path / MANIFEST} was changed after it was written; {advice}")
    return manifest


def _verify_files(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    advice = "restore it, or delete the folder and run its command again"
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file} is missing, though {MANIFEST} lists it; {advice}")
        if file.stat().st_size != expected["bytes"] or digest_file(file) != expected["sha256"]:
            raise UserError(f"{file} does not match its hash in {MANIFEST}: it was changed or damaged; {advice}")
