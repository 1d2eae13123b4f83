"""Sockets and signals: `fromzero serve`."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fromzero.console import say
from fromzero.errors import UserError, missing_extra
from fromzero.inference.opening import check_model
from fromzero.serving.config import LimitsConfig, ServeConfig, find_key

if TYPE_CHECKING:
    import uvicorn

    from fromzero.serving.service import Service

LAST_WORDS_SECONDS = 3.0
"""For what is still to be sent when everything has ended."""


def serve(config: ServeConfig) -> None:
    """Serve a model until a signal comes. Raises UserError."""
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        try:
            __import__(package)
        except ImportError:
            raise missing_extra(package, "serve") from None
    from fromzero.serving.app import build_app
    from fromzero.serving.service import Service

    key = find_key(config)
    check_model(config.model)
    listening = listen(config.host, config.port)
    service = Service(config)
    say_where(config, listening.getsockname()[1], key is not None)
    asyncio.run(_serve(service, make_server(build_app(service), config.limits), listening))


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients can connect to. Raises UserError."""
    try:
        [(family, *_, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is in use; choose another with --port") from None
        raise UserError(f"can't listen at {host}, port {port}: {error.strerror or error}") from None
    return listening


def say_where(config: ServeConfig, port: int, key: bool) -> None:
    """Tell the person at the terminal."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    say(f"listening at http://{host}:{port}/v1 (chat page: http://{host}:{port}/), loading {config.model} ...")
    if not config.loopback and not key:
        say("anyone who reaches this address may use it: there is no key")


def make_server(app: Any, limits: LimitsConfig) -> "uvicorn.Server":
    """A server of HTTP that leaves signals to `_serve`."""
    import uvicorn

    from fromzero.serving.log import LogHandler
    from fromzero.serving.protocol import impatient

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    logger = logging.getLogger("uvicorn")
    logger.handlers, logger.propagate = [LogHandler(logging.WARNING)], False
    return Server(
        uvicorn.Config(
            app,
            http=impatient(limits.header_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=limits.header_bytes,
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=LAST_WORDS_SECONDS,  # type: ignore[arg-type]
        )
    )


async def _serve(service: "Service", server: "uvicorn.Server", listening: socket.socket) -> None:
    """Answer from the start (that the model is loading), load it, and go on until a signal comes."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    stop = asyncio.create_task(signals.get())
    running = asyncio.create_task(server.serve([listening]))
    try:
        loading = _aside(service.load)
        await asyncio.wait((loading, stop, running), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            if service.streams:
                say(service.streams.engine.runner.why)
            say(f"ready: '{service.config.served_name}'; Ctrl-C stops it")
            await asyncio.wait((stop, running), return_when=asyncio.FIRST_COMPLETED)
            await drain(service, service.config.drain, signals)
    finally:
        service.close()
        server.should_exit = True
        await running


def _aside(work: Callable[[], None]) -> "asyncio.Future[None]":
    """Have it done by a thread that nobody waits for when the process ends."""
    loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def tell(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except Exception as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return done


async def drain(service: "Service", seconds: float, signals: "asyncio.Queue[int]") -> None:
    """Take no more requests, and let those that run end within so many seconds, or until a second signal."""
    service.state = "stopping"
    if service.busy:
        say(f"stopping: what runs has {seconds:g} seconds to end; a second signal stops at once")
    deadline = asyncio.get_running_loop().time() + seconds
    while service.busy and signals.empty() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
