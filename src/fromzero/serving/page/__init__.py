"""The chat page: a few files that a browser gets as they are, and the headers that keep it to its own origin.

Written without a build step and without other people's code. `app.js` is where to begin reading.
"""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # Nothing but these files runs or styles, and nothing leaves the origin, whatever a model writes.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # always the files of the server that runs; unchanged ones are not sent again
}


def page_files() -> dict[str, tuple[bytes, str]]:
    """Of every file of the page, by the path that it is served at: its bytes and their type."""
    found = sorted(files(__name__).joinpath("static").iterdir(), key=lambda file: file.name)
    entries = {f"/page/{file.name}": (file.read_bytes(), _TYPES[PurePath(file.name).suffix]) for file in found}
    return {"/": entries.pop("/page/index.html"), **entries}


def add_page(app: "FastAPI") -> None:
    """Serve the page at `/`: these paths, no others, and without a key, for which the page itself asks."""
    for path, (content, kind) in page_files().items():
        app.add_api_route(path, _answer(content, kind), methods=["GET", "HEAD"], include_in_schema=False)


def _answer(content: bytes, kind: str) -> "Callable[[Request], Awaitable[Response]]":
    from fastapi import Request, Response

    headers = {**_HEADERS, "ETag": f'"{sha256(content).hexdigest()[:32]}"'}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=kind)

    return answer
