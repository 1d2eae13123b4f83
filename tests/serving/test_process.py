"""`fromzero serve` as a process: where it listens, signals, and what it refuses to begin with."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fromzero.commands import main
from fromzero.errors import UserError
from fromzero.serving import ServeConfig
from fromzero.serving.config import find_key

BODY = {"prompt": "The river", "max_tokens": 450, "ignore_eos": True, "stream": True}


@contextmanager
def serving(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    line = [sys.executable, "-m", "fromzero", "serve", str(model), "--port", "0", *options]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        assert first.startswith("listening at http://127.0.0.1:"), first
        url = first.split()[2].removesuffix("/v1")
        while "ready" not in (said := process.stderr.readline()):
            assert said, "it ended"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, url
    finally:
        process.kill()
        process.wait()


def reasons(lines: list[str]) -> list[str]:
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]


def test_a_signal_lets_answers_end(served_model: Path) -> None:
    with serving(served_model, "--drain", "20") as (process, url):
        with httpx.stream("POST", url + "/v1/completions", json=BODY, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
            refused = httpx.post(url + "/v1/completions", json=BODY)
            rest = list(lines)
        assert refused.status_code == 503
        assert reasons(rest) == ["length"]
        assert "data: [DONE]" in rest
        assert process.wait(10) == 0


def test_a_second_signal_ends_answers(served_model: Path) -> None:
    with serving(served_model, "--drain", "600") as (process, url):
        with httpx.stream("POST", url + "/v1/completions", json=BODY | {"n": 16}, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            rest = list(lines)
        assert reasons(rest) == ["abort"] * 16
        assert rest[-2:] == ["data: [DONE]", ""] or rest[-1] == "data: [DONE]"
        assert process.wait(10) == 0
        assert time.monotonic() - start < 4


def test_what_is_refused_at_the_start(served_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = {
            "is in use": ("serve", served_model, "--port", port),
            "no key": ("serve", served_model, "--host", "0.0.0.0", "--port", "0"),
            "nowhere": ("serve", tmp_path / "nowhere"),
            "can't listen": ("serve", served_model, "--host", "256.0.0.1", "--allow_no_key", "true"),
            "from 0 to 65535": ("serve", served_model, "--port", "70000"),
        }
        for said, line in cases.items():
            assert main([str(word) for word in line]) == 2
            assert said in capsys.readouterr().err.replace("\n", " ")


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    config = ServeConfig(model=tmp_path, host="0.0.0.0", api_key_file=file)
    assert find_key(config) == "from-a-file"
    monkeypatch.setenv("FROMZERO_API_KEY", "from-outside")
    assert find_key(ServeConfig(model=tmp_path)) == "from-outside"
    assert find_key(ServeConfig(model=tmp_path, api_key="given")) == "given"
    file.write_text("two words\nand lines\n")
    with pytest.raises(UserError, match="printable"):
        find_key(config)
    os.unlink(file)
    with pytest.raises(UserError, match="can't be read"):
        find_key(config)
