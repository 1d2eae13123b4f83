"""The engine on a thread of its own, and outputs as asynchronous streams: what a server needs.

Everything that touches the engine happens on its thread. Who stops listening (a client that went away) has its request
cancelled before the next step. A fault in a step ends all requests with reason `error`, and `fault` says what it was.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress

from fromzero.inference.engine import Engine
from fromzero.inference.request import Output, Reason, Request, Unavailable
from fromzero.inference.sampling import Constraint


class _Listener:
    """Who waits for the outputs of a request, and of which answers the last one is still to come."""

    def __init__(self, request: Request) -> None:
        self.left = set(range(request.sampling.n))
        self.loop, self.outputs = asyncio.get_running_loop(), asyncio.Queue[Output]()


class Streams:
    """Runs an engine until `close`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.fault: Exception | None = None
        self._asked: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._listeners: dict[str, _Listener] = {}
        self._draining = self._closed = self._ended = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stream(self, request: Request, constraint: Constraint | None = None) -> AsyncGenerator[Output, None]:
        """The outputs of a request, of all its answers as they come.

        Raises UserError, Overloaded and Unavailable at once. Leave it by `aclose` (contextlib.aclosing), so that what
        is not wanted any more ends then and not when it is collected.
        """
        listener, accepted, left = _Listener(request), Future[None](), request.sampling.n
        self._do(lambda: self._submit(request, constraint, listener, accepted))
        try:
            await asyncio.wrap_future(accepted)
            while left:
                output = await listener.outputs.get()
                left -= output.reason is not None
                yield output
        finally:
            if left:
                self._do(lambda: self._cancel(request.id, listener))

    def close(self, patience: float = 0.0) -> None:
        """Take no more requests, let those that run end within so many seconds, cancel what is left, stop."""
        with self._wake:
            self._draining = True
            self._wake.wait_for(lambda: not (self._listeners or self._asked), patience)
            self._closed = True
            self._wake.notify_all()
        self._thread.join()

    def _do(self, action: Callable[[], None]) -> None:
        """Have it done by the engine's thread before its next step; by this one, if there is no other any more."""
        with self._wake:
            self._asked.append(action)
            self._wake.notify_all()
            if self._ended:
                self._asked.popleft()()

    def _run(self) -> None:
        while not self._closed:
            with self._wake:
                self._wake.notify_all()  # close looks at who is left
                self._wake.wait_for(lambda: self._asked or self._closed or (self.engine.busy and not self.fault))
            try:
                while self._asked:
                    self._asked.popleft()()
                if not self.fault:
                    self._deliver(self.engine.step())
            except Exception as error:  # nothing that a request can do comes here
                self.fault = error
                self._end_all("error", "the engine has failed")
        self._end_all("cancelled", "the server is stopping")
        with self._wake:
            self._ended = True
            while self._asked:
                self._asked.popleft()()

    def _submit(
        self, request: Request, constraint: Constraint | None, listener: _Listener, accepted: "Future[None]"
    ) -> None:
        if not accepted.set_running_or_notify_cancel():
            return  # gone before it was asked
        try:
            if self.fault is not None or self._draining:
                raise Unavailable("the server is stopping" if self._draining else "the engine has failed")
            self.engine.submit(request, constraint)
            self._listeners[request.id] = listener
            accepted.set_result(None)
        except Exception as error:  # goes to who asked
            accepted.set_exception(error)

    def _cancel(self, request: str, listener: _Listener) -> None:
        if self._listeners.get(request) is listener:  # else another has the same name
            del self._listeners[request]
            self.engine.cancel(request)

    def _deliver(self, outputs: Iterable[Output]) -> None:
        """To each loop once, so that it is woken once."""
        found: dict[asyncio.AbstractEventLoop, list[tuple[_Listener, Output]]] = {}
        for output in outputs:
            if listener := self._listeners.get(output.request):
                found.setdefault(listener.loop, []).append((listener, output))
                if output.reason:
                    listener.left.discard(output.index)
                if not listener.left:
                    del self._listeners[output.request]
        for loop, pairs in found.items():
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(_put, pairs)

    def _end_all(self, reason: Reason, message: str) -> None:
        for request, listener in list(self._listeners.items()):
            with suppress(Exception):  # after a fault it may be in any state
                self.engine.cancel(request)
            self._deliver([Output(request, index, reason=reason, message=message) for index in sorted(listener.left)])


def _put(pairs: list[tuple[_Listener, Output]]) -> None:
    for listener, output in pairs:
        listener.outputs.put_nowait(output)
