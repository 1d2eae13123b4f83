"""A client of servers that speak OpenAI's protocol: answers as streams of events.

Plain HTTP/1.1 on asyncio, with a connection for each request, so that what is measured with it is the server.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fromzero.console import printable
from fromzero.errors import UserError
from fromzero.locations import masked

MOST_BYTES = 1 << 22  # of a line, or of a piece of a body
ADVICE = {
    401: "; set FROMZERO_API_KEY to the server's key",
    404: "; check the address and the name of the model",
    429: "; it has more to do than it takes, try again later",
}


class RefusedError(UserError):
    """The server did not answer. kind: why, in a word or two, to count by."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(printable(message))
        self.kind = kind


@dataclass(frozen=True)
class Server:
    """Where a server is, and how it is spoken to."""

    url: str
    """http://HOST:PORT, with /v1 or without."""
    key: str = field(default="", repr=False)
    patience: float = 600.0
    """Longest wait for the next bytes, seconds."""

    def __post_init__(self) -> None:
        plain = (self.url + self.key).isascii() and (self.url + self.key).isprintable() and " " not in self.url
        if not plain or not self.url.startswith(("http://", "https://")):
            raise UserError(f"'{masked(self.url)}' or its key can't be right; an address is like http://127.0.0.1:8000")

    async def models(self) -> list[str]:
        """The names of what it serves. Raises RefusedError."""
        with self._explained():
            async with aclosing(self._lines("GET", "/models")) as lines:
                answer = json.loads(b"".join([line async for line in lines]))
            return [str(model["id"]) for model in answer["data"]]

    async def events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a streamed answer, until the server says that it is done. Raises RefusedError."""
        with self._explained():
            async with aclosing(self._lines("POST", path, json.dumps({**body, "stream": True}).encode())) as lines:
                async for line in lines:
                    if line.strip() == b"data: [DONE]":
                        return
                    if line.startswith(b"data:"):
                        if "error" in (event := json.loads(line[5:])):
                            raise self._refused(f"broke off: {_message(line[5:])}", "error in the stream")
                        yield event
            raise EOFError

    async def _lines(self, method: str, path: str, body: bytes = b"") -> AsyncGenerator[bytes, None]:
        """The lines of the body of a good answer."""
        url = urlsplit(self.url)
        secure = ssl.create_default_context() if url.scheme == "https" else None
        async with asyncio.timeout(self.patience):
            port = url.port or (443 if secure else 80)
            reader, writer = await asyncio.open_connection(url.hostname, port, ssl=secure, limit=MOST_BYTES)
        try:
            head = [f"{method} {url.path.rstrip('/').removesuffix('/v1')}/v1{path} HTTP/1.1"]
            head += [f"Host: {url.netloc.rpartition('@')[2]}", "Connection: close", f"Content-Length: {len(body)}"]
            head += ["Content-Type: application/json", *([f"Authorization: Bearer {self.key}"] if self.key else [])]
            writer.write("\r\n".join([*head, "", ""]).encode() + body)
            async with asyncio.timeout(self.patience):
                answered = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            status, held = int(answered.split()[1]), b""
            pieces = _pieces(reader, "transfer-encoding: chunked" in answered, self.patience)
            if status != 200:
                why = _message(b"".join([piece async for piece in pieces]))
                raise self._refused(f"answered {status}: {why}{ADVICE.get(status, '')}", f"HTTP {status}")
            async for piece in pieces:
                *lines, held = (held + piece).split(b"\n")
                if len(held) > MOST_BYTES:
                    raise ValueError("a line without end")
                for line in lines:
                    yield line
            yield held
        finally:
            writer.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Whatever goes wrong with a connection, in one sentence."""
        try:
            yield
        except TimeoutError as error:
            raise self._refused(f"said nothing for {self.patience:g} seconds", "too slow") from error
        except EOFError as error:
            raise self._refused("ended an answer before it was whole", "cut off") from error
        except OSError as error:
            raise self._refused(f"can't be reached ({error}); check the address", "not reached") from error
        except (ValueError, LookupError, TypeError, asyncio.LimitOverrunError) as error:
            raise self._refused(f"does not speak OpenAI's protocol ({error})", "no protocol") from error

    def _refused(self, message: str, kind: str) -> RefusedError:
        return RefusedError(f"{masked(self.url)} {message}", kind)


async def _pieces(reader: asyncio.StreamReader, chunked: bool, patience: float) -> AsyncGenerator[bytes, None]:
    while True:
        async with asyncio.timeout(patience):
            if not chunked:
                piece = await reader.read(1 << 16)
            elif 0 <= (size := int(await reader.readuntil(b"\r\n"), 16)) <= MOST_BYTES:
                piece = (await reader.readexactly(size + 2))[:-2]
            else:
                raise ValueError("a piece too large")
        if not piece:
            return
        yield piece


def _message(body: bytes) -> str:
    """What an error says, however the server words it."""
    try:
        answer = json.loads(body)
        error = answer.get("error", answer.get("detail", answer))
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    except (ValueError, AttributeError):
        return body[:200].decode(errors="replace") or "no reason given"
