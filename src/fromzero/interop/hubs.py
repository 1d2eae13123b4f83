"""Hubs of models: what Hugging Face and ModelScope hold of a model, and files from there, resumed and checked.

Nothing but HTTP of the standard library. A file is written as NAME.part until its checksum is that of the listing; what
is there of it is gone on from, as long as the server says that it is still the same file (If-Range with its ETag).
"""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from fromzero.errors import DISK_FULL, UserError
from fromzero.locations import masked

HUGGING_FACE, MODELSCOPE = "https://huggingface.co", "https://www.modelscope.cn"
MAX_LISTING_BYTES = 32_000_000
SECONDS_OF_SILENCE = 30
WAITS = (1.0, 3.0, 9.0)
"""Seconds before a transfer that brought nothing is tried again."""
_BLOCK = 1 << 20


class Listed(NamedTuple):
    """A file of a model, as its source lists it."""

    name: str
    size: int
    checksum: str
    """'sha256:...', or 'git:...', the name that git gives to the contents of a small file."""
    url: str = ""


Hub = Callable[[str], tuple[str, list[Listed]]]
"""A repository -> its revision and files."""


def hugging_face(repository: str) -> tuple[str, list[Listed]]:
    """The newest commit of a repository and its files. HF_ENDPOINT names a mirror, HF_TOKEN opens what is gated."""
    base = os.environ.get("HF_ENDPOINT", HUGGING_FACE).rstrip("/")
    info = _read_json(f"{base}/api/models/{quote(repository)}?blobs=true")
    place, files = f"{base}/{quote(repository)}/resolve/{quote(info['sha'])}", []
    for file in info["siblings"]:
        checksum = f"sha256:{file['lfs']['sha256']}" if file.get("lfs") else f"git:{file['blobId']}"
        files.append(Listed(file["rfilename"], file["size"], checksum, f"{place}/{quote(file['rfilename'])}"))
    return info["sha"], files


def modelscope(repository: str) -> tuple[str, list[Listed]]:
    """The same at ModelScope, which lists a SHA-256 of every file; there is no commit, but the branch."""
    listing = _read_json(f"{MODELSCOPE}/api/v1/models/{quote(repository)}/repo/files?Revision=master&Recursive=true")
    files, place = listing["Data"]["Files"], f"{MODELSCOPE}/models/{quote(repository)}/resolve/master"
    listed = [(file["Path"], file["Size"], f"sha256:{file['Sha256']}") for file in files if file["Type"] != "tree"]
    return "master", [Listed(*file, f"{place}/{quote(file[0])}") for file in listed]


def list_files(hub: Hub, repository: str) -> tuple[str, list[Listed]]:
    """(revision, files) of a repository. Raises UserError when there is none, or it can't be understood."""
    try:
        revision, files = hub(repository)
        if not all(file.size >= 0 for file in files):
            raise ValueError("a file has a size below 0")
        return revision, files
    except (OSError, http.client.HTTPException) as error:
        raise _explained(error, repository) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"its answer can't be understood ({type(error).__name__}: {error})") from error


def fetch_file(file: Listed, path: Path, report: Callable[[int], None]) -> None:
    """Bring a file of a listing to `path`, unless it is there. report(bytes) tells how much of it is.

    Raises UserError when it can't be had or is not what the listing says; what has arrived is kept for the next time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, failures = path.with_name(path.name + ".part"), 0
    if path.exists():
        check_file(file, path)
        return
    most = _size(part)
    while _size(part) != file.size:
        try:
            _receive(file, part, report)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise
            failures, most = (0, _size(part)) if _size(part) > max(most, 0) else (failures + 1, most)
            if failures > len(WAITS) or (isinstance(error, urllib.error.HTTPError) and error.code < 429):
                raise _explained(error, file.name) from error
            time.sleep(WAITS[max(failures - 1, 0)])
    check_file(file, part)
    part.with_suffix(".etag").unlink(missing_ok=True)
    part.replace(path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def check_file(file: Listed, path: Path) -> None:
    """Raise UserError, and delete it, when a file does not have the checksum of the listing."""
    kind, _, expected = file.checksum.partition(":")
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {file.size}\0".encode())  # noqa: S324
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected.lower():
        path.unlink()
        raise UserError(f"{file.name} does not match its checksum: it was damaged on the way, or changed; try again")


def _receive(file: Listed, part: Path, report: Callable[[int], None]) -> None:
    mark = part.with_suffix(".etag")
    start, tag = (_size(part), mark.read_text()) if mark.exists() and _size(part) < file.size else (0, "")
    with _open(file.url, {"Range": f"bytes={start}-", "If-Range": tag} if start > 0 and tag else {}) as answer:
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        tag = answer.headers.get("ETag", "")
        mark.write_text("" if tag.startswith("W/") else tag)  # a weak one does not say that the bytes are the same
        done = start if goes_on else 0
        with part.open("ab" if goes_on else "wb") as out:
            while block := answer.read(_BLOCK):
                done += len(block)
                if done > file.size:
                    raise UserError(f"{file.name} is longer than the {file.size:,} bytes of its listing; it is refused")
                out.write(block)
                report(done)
    if done < file.size:
        raise ConnectionError(f"the connection ended after {done:,} of {file.size:,} bytes")


def _read_json(url: str) -> dict[str, Any]:
    with _open(url, {}) as answer:
        if len(data := answer.read(MAX_LISTING_BYTES + 1)) > MAX_LISTING_BYTES:
            raise ValueError(f"more than {MAX_LISTING_BYTES:,} bytes")
    return dict(json.loads(data))


def _open(url: str, headers: Mapping[str, str]) -> Any:
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{masked(url)} is not an address of the web; check HF_ENDPOINT")
    request = urllib.request.Request(url, headers={"User-Agent": "fromzero", **headers})  # noqa: S310
    token = os.environ.get("HF_TOKEN")
    if token and not url.startswith(MODELSCOPE):  # stays behind when the hub redirects to another host
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return urllib.request.urlopen(request, timeout=SECONDS_OF_SILENCE)  # noqa: S310


def _explained(error: Exception, what: str) -> UserError:
    """What a hub's refusal means: it answers 401 both for what is not there and for what one must not see."""
    status = getattr(error, "code", None)
    if status == 404 or (getattr(error, "headers", None) or {}).get("X-Error-Code") == "RepoNotFound":
        return UserError(f"there is no {what}; check the name (and HF_TOKEN, if it is private)")
    if status in (401, 403):
        return UserError(f"access to {what} was refused ({status}): accept its terms on its page, and set HF_TOKEN")
    reason = f"status {status}" if status else masked(str(getattr(error, "reason", error))) or type(error).__name__
    return UserError(f"{what} can't be reached ({reason})")
