"""The engine on a thread of its own, and outputs as asynchronous streams: what a server needs.

Everything that touches the engine happens on its thread. Who stops listening (a client that went away) has its request
cancelled before the next step. A fault in a step ends all requests with reason `error`, and `fault` says what it was.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from fromzero.inference.engine import Engine
from fromzero.inference.request import Output, Request, Unavailable
from fromzero.inference.sampling import Constraint

Sink = Callable[[Output], Any]


class Streams:
    """Runs an engine until `close`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.fault: Exception | None = None
        self._asked: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._sinks: dict[str, Sink] = {}
        self._closed = self._draining = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stream(self, request: Request, constraint: Constraint | None = None) -> AsyncIterator[Output]:
        """The outputs of a request, of all its answers as they come. Raises UserError,
        Overloaded and Unavailable at once."""
        loop, outputs = asyncio.get_running_loop(), asyncio.Queue[Output]()
        accepted: Future[None] = Future()

        def sink(output: Output) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(outputs.put_nowait, output)

        def submit() -> None:
            try:
                if self.fault is not None or self._draining:
                    raise Unavailable("the server is stopping" if self._draining else "the engine has failed")
                self.engine.submit(request, constraint)
                self._sinks[request.id] = sink
                accepted.set_result(None)
            except Exception as error:  # goes to who asked
                accepted.set_exception(error)

        self._do(submit)
        left = request.sampling.n
        try:
            await asyncio.wrap_future(accepted)
            while left:
                output = await outputs.get()
                left -= output.reason is not None
                yield output
        finally:
            if left:
                self._do(lambda: self._cancel(request.id))

    def close(self, patience: float = 0.0) -> None:
        """Take no more requests, let those that run end within so many seconds, cancel what is left, stop."""
        self._draining = True
        with self._wake:
            self._wake.wait_for(lambda: not self._sinks, patience)
            self._closed = True
            self._wake.notify_all()
        self._thread.join()

    def _do(self, action: Callable[[], None]) -> None:
        """Have it done by the engine's thread before its next step."""
        with self._wake:
            self._asked.append(action)
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._asked or self.engine.busy or self._closed)
                if self._closed:
                    break
            while self._asked:
                self._asked.popleft()()
            try:
                for output in self.engine.step():
                    self._deliver(output)
            except Exception as error:
                self.fault = error
                self._end_all("error", str(error))
        self._end_all("cancelled", "the server is stopping")

    def _deliver(self, output: Output) -> None:
        sink = self._sinks.get(output.request)
        if output.reason and not self.engine.knows(output.request):
            self._sinks.pop(output.request, None)
            with self._wake:
                self._wake.notify_all()
        if sink is not None:
            sink(output)

    def _cancel(self, request: str) -> None:
        self._sinks.pop(request, None)
        self.engine.cancel(request)

    def _end_all(self, reason: Any, message: str) -> None:
        for request in list(self._sinks):
            sink = self._sinks[request]
            for index in self.engine.unfinished(request):
                sink(Output(request, index, reason=reason, message=message))
            self._cancel(request)
