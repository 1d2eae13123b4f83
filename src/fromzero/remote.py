"""Artifacts at URLs: made and used in folders below the user's cache, and copied from there and to there.

The order of writing is that of a folder here: first the mark of what is unfinished, the manifest last.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fromzero.console import progress, say
from fromzero.errors import UserError
from fromzero.locations import at, cached, fetch, masked, name_of, read

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
MAX_MANIFEST_BYTES = 64_000_000
Parse = Callable[[bytes, str], dict[str, Any]]
"""Checks a manifest, and raises UserError that names the place."""


def download(url: str, kind: str | None, parse: Parse) -> Path:
    """A folder here with the files of the artifact at a URL, fetched unless it is there already. Raises UserError.

    Each file is compared with its SHA-256 in the manifest before it gets its name.
    """
    if (found := _read(url, parse)) is None:
        raise UserError(f"{masked(url)} has no {MANIFEST}, so there is no finished {kind or 'artifact'}")
    data, manifest = found
    if kind and manifest["kind"] != kind:
        raise UserError(f"{masked(url)} is a {manifest['kind']}, not a {kind}")
    for folder in (cached("builds", url), cached("downloads", url, hashlib.sha256(data).hexdigest())):
        with contextlib.suppress(OSError):
            if (folder / MANIFEST).read_bytes() == data:
                return folder
    with progress(f"fetching {masked(url)}", sum(file["bytes"] for file in manifest["files"].values()), "B") as report:
        done = 0
        for name, expected in manifest["files"].items():
            _fetch_verified(url, folder, name, expected)
            done += expected["bytes"]
            report(done)
    (folder / MANIFEST).write_bytes(data)
    return folder


def _fetch_verified(url: str, folder: Path, name: str, expected: Mapping[str, Any]) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or path == folder / MANIFEST:
        raise UserError(f"{masked(url)}: its {MANIFEST} names the file {name!r}, which can't be one of its own")
    if path.exists():
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    fetch(f"{url}/{name}", part, expected["bytes"])
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected["sha256"]:
        part.unlink()
        raise UserError(f"{masked(url)}/{name} does not match its hash in {MANIFEST}: it was changed or damaged")
    part.replace(path)


def publish(url: str, kind: str, key: str, parse: Parse, keep: bool, make: Callable[[Path], Any]) -> Mapping[str, Any]:
    """Bring the artifact at a URL up to date: make(folder) here, then upload. Returns its manifest.

    keep: one that was made from other settings is not replaced. Raises UserError when it can't be written, before it is
    made, and when something else is there.
    """
    old = found[1] if (found := _read(url, parse)) else None
    if old and old["kind"] == kind and old["key"] == key:
        say(f"{masked(url)}: up to date")
        return old
    if old and (keep or old["kind"] != kind):
        raise UserError(f"{masked(url)} holds a {old['kind']} made otherwise; name another folder with --output")
    with at(url) as (files, there):
        with contextlib.suppress(FileNotFoundError):
            names = {name_of(name) for name in files.ls(there, detail=False) if name.strip("/") != there.strip("/")}
            if not old and names and UNFINISHED not in names:
                raise UserError(f"{masked(url)} holds something else than a {kind}; name another folder with --output")
        files.pipe_file(f"{there}/{UNFINISHED}", b"{}\n")
    made = make(cached("builds", url))
    say(f"{masked(url)}: uploading")
    listed = [*made.manifest["files"], MANIFEST]
    with at(url) as (files, there):
        for name in [MANIFEST, *old["files"]] if old else []:
            if name == MANIFEST or name not in listed:
                with contextlib.suppress(FileNotFoundError):
                    files.rm_file(f"{there}/{name}")
        for name in listed:
            files.put_file(str(made.path / name), f"{there}/{name}")
        files.rm_file(f"{there}/{UNFINISHED}")
    return dict(made.manifest)


def _read(url: str, parse: Parse) -> tuple[bytes, dict[str, Any]] | None:
    if (data := read(f"{url}/{MANIFEST}", MAX_MANIFEST_BYTES)) is None:
        return None
    manifest = parse(data, masked(url))
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        sound = {"kind", "key", "content", "config", "summary"} <= manifest.keys()
        if sound and all(file["bytes"] + 0 >= 0 and file["sha256"] + "" for file in manifest["files"].values()):
            return data, manifest
    raise UserError(
        f"{masked(url)}/{MANIFEST} is not a manifest of fromzero: entries are missing or not as they should be"
    )
