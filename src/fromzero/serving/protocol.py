"""HTTP/1.1 with clients who take their time to ask: they are given some, and no more."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which closes connections whose request is not begun, or not whole, after so many seconds.

    uvicorn itself waits for ever for the first request, and for the rest of one whose headers have begun.
    """

    class Protocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """The time runs while headers are awaited; what comes meanwhile does not stop it."""
            if self.conn.their_state is not h11.IDLE:
                self._unwatch()
            elif self._late is None:
                self._late = self.loop.call_later(seconds, self.transport.close)

        def _unwatch(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Protocol
