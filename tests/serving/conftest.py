"""A server that really listens, over a tiny model."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fromzero.inference.engine import Engine, EngineConfig
from fromzero.serving import ServeConfig
from fromzero.serving.app import build_app
from fromzero.serving.server import listen, make_server
from fromzero.serving.service import Service


def metric(url: str, name: str, **labels: str) -> float:
    """The sum of a metric, of those that have these labels."""
    text = httpx.get(f"{url}/metrics", timeout=60).text
    lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
    return sum(float(line.split()[-1]) for line in lines if all(f'{k}="{v}"' in line for k, v in labels.items()))


@dataclass
class Live:
    """A running server."""

    service: Service
    url: str

    @property
    def engine(self) -> Engine:
        assert self.service.streams is not None
        return self.service.streams.engine

    @property
    def client(self) -> openai.OpenAI:
        """OpenAI's own client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.service.config.api_key or "none", max_retries=0)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def metric(self, name: str, **labels: str) -> float:
        """See the function of this name."""
        return metric(self.url, name, **labels)

    def wait(self, holds: Callable[[], bool], seconds: float = 10) -> None:
        """Until it holds."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it does not come about"
            time.sleep(0.01)

    def idle(self) -> bool:
        """Nothing is computed and no page is held."""
        return not self.engine.busy and self.engine.stats.pages_held == 0


StartServer = Callable[..., Live]


@pytest.fixture(scope="session")
def start_server(served_model: Path) -> Iterator[StartServer]:
    """Start one with these settings, on a thread; it is stopped when all tests are done."""
    running: list[Callable[[], None]] = []

    def start(load: bool = True, **settings: Any) -> Live:
        config = ServeConfig(**{"model": served_model, "name": "tiny", "engine": EngineConfig(queued=64), **settings})
        listening = listen("127.0.0.1", 0)
        service = Service(config)
        server = make_server(build_app(service), config.limits)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
        thread.start()
        if load:
            service.load()

        def stop() -> None:
            service.close()
            server.should_exit = True
            thread.join(10)

        running.append(stop)
        live = Live(service, f"http://127.0.0.1:{listening.getsockname()[1]}")
        live.wait(lambda: server.started)
        return live

    yield start
    for stop in running:
        stop()


@pytest.fixture(scope="session")
def live(start_server: StartServer) -> Live:
    """One for all who leave it as it is."""
    return start_server()
