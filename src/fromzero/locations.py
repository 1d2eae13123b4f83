"""Places that are not on this machine: files and folders at URLs, by fsspec.

A setting that takes a path takes a URL as well. Credentials come from the environment, or from fsspec's own
configuration; what a URL holds of them, in `user:password@` or after the `?`, is used but neither shown nor stored.
What comes from there is data: names are made safe before they become names of files here, and nothing is unpickled.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fromzero.errors import DISK_FULL, UserError, missing_extra, nearest

SCHEMES = {"s3": "s3fs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp", "memory": "fsspec"}
"""Which URLs are understood, and the package that does it."""
WAITS = (0.5, 1.0, 2.0)
"""Seconds before a transfer that failed is tried again."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(.*)", re.DOTALL)
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]+:/{1,2})[^/\s'\"]+@")
_QUERY = re.compile(r"(\bhttps?:/{1,2}[^\s?'\"]*)\?[^\s'\"]*")


def url_of(path: Path) -> str | None:
    """The URL that a path was made from, or None for a place on this machine.

    `Path` makes one slash of two: Path('s3://b/x') is 's3:/b/x'. What begins with two letters or more and a colon is a
    URL: a letter alone is a drive of Windows, and a folder here that is called so has to be named by its absolute path.
    """
    found = _URL.fullmatch(path.as_posix())
    return f"{found[1]}://{found[2]}" if found else None


def masked(text: str) -> str:
    """Text without the secrets of the URLs in it."""
    return _QUERY.sub(r"\1?***", _USER.sub(r"\1***@", text))


def shown(path: Path) -> str:
    """A path or URL as it may be printed and stored."""
    return masked(url_of(path) or path.as_posix())


def name_of(url: str) -> str:
    """The last part of a URL, readable: to show, and to tell the format by."""
    return unquote(masked(url).removesuffix("?***").rstrip("/").rpartition("/")[2])


def safe_name(name: str) -> str:
    """A name from elsewhere as that of a file here: it can't lead out of its folder, and keeps its suffixes."""
    return re.sub(r"[^\w.-]", "_", name)[-60:].lstrip(".")


def cached(use: str, url: str, *identity: str) -> Path:
    """The folder below the user's cache for what belongs to a URL: the same one in each run."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256("\n".join((masked(url), *identity)).encode()).hexdigest()
    return cache.absolute() / "fromzero" / use / f"{safe_name(name_of(url))}-{digest[:16]}"


@contextlib.contextmanager
def at(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL, and the path in it.

    What goes wrong inside becomes a UserError that names the URL, but for a full disk. Also raises it for a scheme that
    is not known, and when a package is missing. One system, never a chain of them (`zip::s3`): a name in a listing
    must not be able to lead to another one.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise UserError(f"{masked(url)}: '{scheme}' is not a kind of URL that is understood{nearest(scheme, SCHEMES)}")
    if importlib.util.find_spec(SCHEMES[scheme]) is None:
        raise missing_extra(SCHEMES[scheme], "remote")
    import fsspec

    given = fsspec.config.conf.get(scheme, {})
    try:
        options = {key: value | given.get(key, {}) for key, value in _options(scheme).items()}
        files = fsspec.filesystem(scheme, **options)
        yield files, files._strip_protocol(url)
    except Exception as error:
        if isinstance(error, UserError) or getattr(error, "errno", None) in DISK_FULL:
            raise
        raise UserError(f"{masked(url)}: {_reason(_cause(error))}") from error


def _options(scheme: str) -> dict[str, dict[str, Any]]:
    """No limit to how long a transfer takes, but to how long nothing happens: by default it is the reverse."""
    if scheme in ("http", "https"):
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        return {"client_kwargs": {"timeout": limits, "trust_env": True}}
    return {"config_kwargs": {"retries": {"max_attempts": 0}}} if scheme == "s3" else {}


def _cause(error: Exception) -> BaseException:
    """fsspec says of a server that does not answer, or refuses, that there is no file; what is beneath says why."""
    cause = error.__cause__
    of_network = type(cause).__module__.startswith("aiohttp") and getattr(cause, "status", 0) not in (404, 410)
    return cause if cause and isinstance(error, FileNotFoundError) and of_network else error


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder; check the address"
    why = masked(str(error))[:300] or type(error).__name__
    if isinstance(error, PermissionError) or "redentials" in why or getattr(error, "status", 0) in (401, 403):
        return f"access was refused ({why}); give credentials in the environment, as the documentation says"
    return f"can't be reached ({why}); check the address and the network"


def fetch(url: str, path: Path, size: int = 0) -> None:
    """Download a file as a stream; `size`, where known, says when it is whole. Raises UserError when it can't be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with at(url) as (files, there):
        for wait in (*WAITS, None):
            try:
                files.get_file(there, str(path))
                if size and path.stat().st_size != size:
                    raise ConnectionError(f"{path.stat().st_size:,} of {size:,} bytes arrived")
                return
            except Exception as error:
                lasting = isinstance(_cause(error), FileNotFoundError | PermissionError)
                if wait is None or lasting or getattr(error, "errno", None) in DISK_FULL:
                    raise
                time.sleep(wait)


def read(url: str, limit: int) -> bytes | None:
    """The contents of a small file, None when there is none. Raises UserError when it is larger than `limit`."""
    with at(url) as (files, there):
        files.invalidate_cache()
        try:
            if (files.info(there).get("size") or 0) > limit:
                raise UserError(f"{masked(url)} has more than {limit:,} bytes; that can't be what it should be")
            return bytes(files.cat_file(there))
        except FileNotFoundError as error:
            if _cause(error) is not error:
                raise
            return None
