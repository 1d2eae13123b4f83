"""A client of servers that speak OpenAI's protocol: answers as streams of events."""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fromzero.console import printable
from fromzero.errors import UserError, missing_extra
from fromzero.inference.sampling import SamplingConfig
from fromzero.locations import masked

ADVICE = {
    401: "; set FROMZERO_API_KEY to its key",
    404: "; check the address and the name of the model",
    429: "; it has more to do than it takes, try again later",
}
LONGEST = 1 << 26
"""Bytes of an answer that is no stream."""
NAMES = {name: name for name in ("top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "stop")}
NAMES |= {
    "frequency_penalty": "frequency_penalty",
    "min_tokens": "min_tokens",
    "ignore_end": "ignore_eos",
    "seed": "seed",
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
    key: str = field(default_factory=lambda: os.environ.get("FROMZERO_API_KEY", ""), repr=False)
    patience: float = 600.0
    """Longest wait for the next bytes, seconds."""

    async def models(self) -> list[str]:
        """The names of what it serves. Raises RefusedError."""
        async with self._asked("GET", "/models") as response:
            return [str(model["id"]) for model in json.loads(await self._whole(response))["data"]]

    async def named(self, name: str | None, option: str) -> str:
        """What it calls the model: the name that is given, or the first that it names. Raises RefusedError."""
        if name or (names := await self.models()):
            return name or names[0]
        raise self._refused(f"names no model; name one with {option}", "no model")

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """A whole answer: what its JSON says, or its bytes where it is none. Raises RefusedError."""
        async with self._asked("POST", path, json=body) as response:
            said = await self._whole(response)
            return json.loads(said) if response.content_type == "application/json" else said

    async def events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a streamed answer, until the server says that it is done. Raises RefusedError."""
        async with self._asked("POST", path, json={**body, "stream": True}) as response:
            async for line in response.content:
                if line.strip() == b"data: [DONE]":
                    return
                if line.startswith(b"data:"):
                    if "error" in (event := json.loads(line[5:])):
                        raise self._refused(f"broke off: {_message(line[5:])}", "error in the stream")
                    yield event
            raise self._refused("ended an answer before it was whole", "cut off")

    async def _whole(self, response: Any) -> bytes:
        said = bytearray()
        async for piece in response.content.iter_any():
            said += piece
            if len(said) > LONGEST:
                raise self._refused(f"answered with more than {LONGEST >> 20} MiB", "too long")
        return bytes(said)

    @asynccontextmanager
    async def _asked(self, method: str, path: str, **options: Any) -> AsyncIterator[Any]:
        """A good response, over a connection of its own; whatever goes wrong with it, in one sentence."""
        try:
            import aiohttp
        except ImportError:
            raise missing_extra("aiohttp", "serve") from None
        base = self.url.rstrip("/").removesuffix("/v1")
        keys = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self.patience)
        given: dict[str, Any] = {"timeout": limits, "headers": keys, "trust_env": "//127." not in base}
        try:
            async with (
                aiohttp.ClientSession(**given, read_bufsize=1 << 20) as session,
                session.request(method, f"{base}/v1{path}", allow_redirects=False, **options) as response,
            ):
                if (status := response.status) != 200:
                    why = _message(await response.content.read(1 << 16))
                    raise self._refused(f"answered {status}: {why}{ADVICE.get(status, '')}", f"HTTP {status}")
                yield response
        except TimeoutError as error:
            raise self._refused(f"said nothing for {self.patience:g} seconds", "too slow") from error
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise self._refused("is no address; give one like http://127.0.0.1:8000", "no address") from error
        except aiohttp.ClientPayloadError as error:
            raise self._refused("ended an answer before it was whole", "cut off") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._refused(f"can't be reached ({error}); check the address", "not reached") from error
        except (ValueError, LookupError, TypeError) as error:
            raise self._refused(f"does not speak OpenAI's protocol ({error})", "no protocol") from error

    def _refused(self, message: str, kind: str) -> RefusedError:
        return RefusedError(f"{masked(self.url)} {message}", kind)


def request_fields(sampling: SamplingConfig) -> dict[str, Any]:
    """Settings as such servers take them: OpenAI's own, and others only where they say something."""
    usual = SamplingConfig()
    fields = {name: getattr(sampling, name) for name in ("temperature", "top_p", "max_tokens")}
    told = {name: getattr(sampling, name) for name in NAMES if getattr(sampling, name) != getattr(usual, name)}
    return fields | {NAMES[name]: value for name, value in told.items()}


def _message(body: bytes) -> str:
    """What an error says, however the server words it."""
    try:
        answer = json.loads(body)
        error = answer.get("error", answer.get("detail", answer))
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    except (ValueError, AttributeError):
        return body[:200].decode(errors="replace") or "no reason given"
