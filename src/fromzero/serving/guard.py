"""What stands before the routes: who may ask, how much, and a line in the log for each request."""

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fromzero.serving.answers import ClientGoneError
from fromzero.serving.config import find_key
from fromzero.serving.errors import ApiError, as_api_error, bad
from fromzero.serving.log import log
from fromzero.serving.service import Service

ALWAYS = ("/health", "/metrics", "/version")
"""What is answered also while the model is not there."""
LONG = 50_000  # bytes; the check of longer bodies takes milliseconds, which others need not wait for
SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}

_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)


class Guard:
    """An application around the application."""

    def __init__(self, app: ASGIApp, service: Service, public: Iterable[str]) -> None:
        """public: paths that need no key."""
        self.app, self.service, self.public = app, service, frozenset(public)
        key, config = find_key(service.config), service.config
        self._key = None if key is None else _digest(key)
        # A page of another site that gives its own name this machine's address is told apart by the name.
        self._hosts = {"localhost", "127.0.0.1", "[::1]", config.host, f"[{config.host}]"} if config.loopback else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 499  # what nginx calls a client that went away
        note: dict[str, Any] = {"id": secrets.token_hex(12)}
        scope["fromzero"] = note

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = note["id"]
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            receive = await self._admit(scope, Headers(scope=scope), receive)
            await self.app(scope, receive, noted)
        except ClientGoneError:
            pass
        except ApiError as error:
            await _refuse(error, scope, receive, noted)
        except Exception as error:
            self._failed(error, note)
            if status == 499:
                await _refuse(as_api_error(error), scope, receive, noted)
        finally:
            self._done(scope, status, time.monotonic() - start)

    async def _admit(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Raises ApiError for what is refused without a look at what it asks; reads the body of the rest."""
        path, host = scope["path"], _name(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            raise ApiError(403, "this server answers to this machine only; ask it as 'localhost' or '127.0.0.1'")
        if self._key is not None and path not in self.public and scope["method"] != "OPTIONS":
            self._check_key(headers)
        if path not in ALWAYS and path not in self.public and (problem := self.service.problem()):
            raise ApiError(503, problem, headers={"Retry-After": "5"})
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return receive
        return await self._read(headers, receive)

    def _check_key(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        assert self._key is not None
        if not hmac.compare_digest(_digest(given), self._key):
            what = "the API key is wrong" if given else "an API key is needed: send it as 'Authorization: Bearer KEY'"
            raise ApiError(401, what, headers={"WWW-Authenticate": "Bearer"})

    async def _read(self, headers: Headers, receive: Receive) -> Receive:
        """The whole body, not too long, not too slow, and of JSON; then as if it had not been read."""
        limits = self.service.config.limits
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, f"the content type is '{kind[:60]}'; send application/json")
        length = headers.get("content-length", "0")
        body = bytearray()
        try:
            async with asyncio.timeout(limits.header_seconds):
                more = True
                while more:
                    if len(body) > limits.body_bytes or (length.isdecimal() and int(length) > limits.body_bytes):
                        raise ApiError(413, f"the body has more than {limits.body_bytes} bytes; send less")
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {limits.header_seconds:g} seconds") from None
        if len(body) > LONG:
            await asyncio.to_thread(check_json, bytes(body), limits.body_depth)
        else:
            check_json(bytes(body), limits.body_depth)
        left = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def again() -> Message:
            return left.pop() if left else await receive()

        return again

    def _failed(self, error: Exception, note: dict[str, Any]) -> None:
        """A fault of ours, or a client that took too long to read: for the log."""
        frames, at = error.__traceback__, ""
        while frames is not None:
            at = f"{frames.tb_frame.f_code.co_filename}:{frames.tb_lineno}"
            frames = frames.tb_next
        log("fault", id=note["id"], kind=type(error).__name__, at=at)

    def _done(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "OTHER"
        self.service.metrics.answered(route, method, status, seconds)
        if route not in ALWAYS:
            log("request", path=route, method=method, status=status, seconds=round(seconds, 4), **scope["fromzero"])


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    # The rest of a body that is not wanted is not read: the connection ends with the answer.
    headers = error.headers | ({"connection": "close"} if error.status in (408, 413) else {})
    await JSONResponse(error.body, error.status, headers)(scope, receive, send)


def _digest(key: str) -> bytes:
    """Of one length, so that a comparison takes one time."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _name(host: str) -> str:
    """A Host header without its port."""
    name, _, port = host.strip().lower().rpartition(":")
    return name if port.isdecimal() and name and not (name.count(":") and not name.endswith("]")) else host.lower()


def check_json(body: bytes, depth: int) -> None:
    """Raises ApiError for what is no JSON of text in UTF-8 with finite numbers, or too deep."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise bad("the body is not UTF-8") from None
    if deepest(text, depth) > depth:
        raise bad(f"the body has lists and mappings more than {depth} deep; flatten it")
    try:
        json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise bad(f"the body is not JSON: {str(error)[:200]}") from None


def deepest(text: str, limit: int) -> int:
    """How deep the brackets outside strings go; no more than one beyond the limit is counted."""
    depth = most = 0
    for found in _BRACKETS.finditer(text):
        bracket = found.group()
        depth += (bracket in "[{") - (bracket in "]}")
        most = max(most, depth)
        if most > limit:
            break
    return most


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice")
    return made


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
