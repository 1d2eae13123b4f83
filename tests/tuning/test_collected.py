"""Answers of a teacher, from a model here and from a server that really listens, become conversations to tune on."""

import asyncio
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fromzero.artifact import open_artifact
from fromzero.errors import UserError
from fromzero.inference import SamplingConfig, client
from fromzero.inference.client import RefusedError
from fromzero.training import TrainConfig
from fromzero.tuning import ChatConfig, collected, finetune_chat
from fromzero.tuning.collected import AnswersConfig, collect_answers
from tests.serving.conftest import Live, StartServer, start_server

__all__ = ["start_server"]

SAMPLING = SamplingConfig(temperature=1.0, max_tokens=12, n=3, seed=1, stop=(" ",))


@pytest.fixture(scope="module")
def live(start_server: StartServer) -> Live:
    return start_server()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": f"Where is story {n}?", "answer": str(n)} for n in range(8)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def said(folder: Path) -> list[Any]:
    return [json.loads(line)["messages"] for line in (folder / "train.jsonl").open()]


def test_a_server_and_the_model_itself(live: Live, served_model: Path, prompts: Path, tmp_path: Path) -> None:
    """They say the same; chat tuning learns it; counts add up."""
    there = collect_answers(AnswersConfig(prompts, tmp_path / "there", url=live.url, sampling=SAMPLING, concurrent=3))
    here = collect_answers(AnswersConfig(prompts, tmp_path / "here", teacher=served_model, sampling=SAMPLING))
    assert said(there.path) == said(here.path)
    counts = there.summary["answers"]
    assert sum(counts.values()) == 8 * 3
    assert counts["kept"] == len(said(there.path)) > 0
    assert not (there.path / "asked").exists()
    train = TrainConfig(steps=2, batch_size=4, dtype="float32")
    finetune_chat(ChatConfig(model=served_model, conversations=there.path, output=tmp_path / "tuned", train=train))
    assert open_artifact(tmp_path / "tuned", "model")


def test_a_run_that_was_cut_off_goes_on(
    live: Live, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AnswersConfig(prompts, tmp_path / "out", url=live.url, sampling=SAMPLING, concurrent=1)
    whole = collect_answers(AnswersConfig(prompts, tmp_path / "whole", url=live.url, sampling=SAMPLING))
    asked = list[Any]()
    ask: Callable[..., Any] = collected._ask

    async def failing(server: Any, body: dict[str, Any]) -> dict[str, Any]:
        if len(asked) == 4:
            server = type(server)("http://127.0.0.1:9")
        asked.append(body)
        return await ask(server, body)

    monkeypatch.setattr(collected, "_ask", failing)
    with pytest.raises(UserError, match="can't be reached"):
        collect_answers(config)
    assert len((config.output / "asked" / "answers.jsonl").read_text().splitlines()) == 4
    made = collect_answers(config)
    assert len(asked) == 5 + 4
    assert said(made.path) == said(whole.path)


def test_a_verifier_and_prompts_that_are_refused(live: Live, prompts: Path, tmp_path: Path) -> None:
    """What is wrong, empty or cut off is counted, and so is a prompt that the server refuses."""
    with prompts.open("a") as file:
        file.write(json.dumps({"prompt": "long " * 2000}) + "\n")
    rule = {"kind": "regex", "pattern": "[a-m]"}
    made = collect_answers(AnswersConfig(prompts, tmp_path / "out", url=live.url, sampling=SAMPLING, verifier=rule))
    counts = made.summary["answers"]
    assert counts["prompts without an answer"] == 1
    assert counts["wrong"] > 0
    assert sum(counts.values()) == 1 + 8 * 3
    assert all(set("abcdefghijklm") & set(messages[-1]["content"]) for messages in said(made.path))
    never = {"kind": "regex", "pattern": "^never$"}
    nothing = AnswersConfig(prompts, tmp_path / "none", url=live.url, sampling=SAMPLING, verifier=never)
    with pytest.raises(UserError, match="no answer is left"):
        collect_answers(nothing)


@contextmanager
def odd_server(*events: str) -> Iterator[str]:
    """A server whose streams are these events, and then 100 times the last if it does not end an answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.begin()
            models = [{"id": "m" * len(events[-1])}] if events[-1] else []
            self.wfile.write(json.dumps({"data": models}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.begin()
            ends = "finish_reason" in events[-1]
            said = [*events, *([] if ends else [events[-1]] * 100)]
            self.wfile.write("".join(f"data: {event}\n\n" for event in said).encode())
            self.wfile.write(b"data: [DONE]\n\n" if ends else b"")

        def begin(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.handle_error = lambda *_: None  # type: ignore[method-assign]  # whoever asked may have left
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{served.server_port}"
        finally:
            served.shutdown()
            thread.join()


ODD: dict[str, tuple[str, str]] = {
    "no model": ("", "names no model"),
    "no choices": ('{"choices": 5}', "does not speak"),
    "no index": ('{"choices": [{"delta": {"content": "a"}}]}', "does not speak"),
    "an index too many": ('{"choices": [{"index": 1, "delta": {"content": "a"}}]}', "does not speak"),
    "no text": ('{"choices": [{"index": 0, "delta": {"content": 5}}]}', "does not speak"),
    "no end": ('{"choices": []}', "does not end"),
}


@pytest.mark.parametrize(("event", "why"), ODD.values(), ids=ODD)
def test_servers_that_do_not_keep_to_the_protocol(
    event: str, why: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collected, "LONGEST", 50)
    with odd_server(event) as url, pytest.raises(RefusedError, match=why):
        collect_answers(AnswersConfig(prompts, tmp_path / "out", url=url))


def test_a_delta_may_be_null(prompts: Path, tmp_path: Path) -> None:
    last = '{"choices": [{"index": 0, "delta": null, "finish_reason": "stop"}]}'
    with odd_server('{"choices": [{"index": 0, "delta": {"content": "a"}}]}', last) as url:
        made = collect_answers(AnswersConfig(prompts, tmp_path / "out", url=url))
    assert made.summary["answers"]["kept"] == 8


def test_a_list_of_models_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST", 1000)
    with odd_server("x" * 2000) as url, pytest.raises(RefusedError, match="more than"):
        asyncio.run(client.Server(url).models())


def test_prompts_that_are_not_utf_8(tmp_path: Path, served_model: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Où est-il?\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt is not in UTF-8"):
        collect_answers(AnswersConfig(tmp_path / "latin.txt", tmp_path / "out", teacher=served_model))


def test_lines_may_hold_any_character(tmp_path: Path, served_model: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\u2028two\u0085three\n", encoding="utf-8")
    config = AnswersConfig(tmp_path / "prompts.txt", tmp_path / "out", teacher=served_model, sampling=SAMPLING)
    made = collect_answers(config).path
    assert {messages[0]["content"] for messages in said(made)} == {"one\u2028two\u0085three"}


def test_settings(prompts: Path, tmp_path: Path, served_model: Path) -> None:
    wrongs: tuple[dict[str, Any], ...] = ({}, {"url": "http://a", "teacher": served_model})
    for wrong in wrongs:
        with pytest.raises(UserError, match="name a teacher"):
            AnswersConfig(prompts, tmp_path, **wrong)
    with pytest.raises(UserError, match="no file"):
        collect_answers(AnswersConfig(tmp_path / "none", tmp_path / "out", teacher=served_model))
