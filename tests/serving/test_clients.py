"""Our own clients against our own server: the chat in the terminal, and the test of speed."""

import json
from pathlib import Path

import pytest

from fromzero.commands import main
from fromzero.commands.chat import Chat
from fromzero.commands.partners import Local, Remote, Reply
from fromzero.errors import UserError
from fromzero.evaluation.speed import SpeedConfig, measure_speed
from fromzero.inference import SamplingConfig
from fromzero.inference.opening import open_engine
from tests.serving.conftest import Live, StartServer

GREEDY = SamplingConfig(temperature=0, max_tokens=20, ignore_end=True, repetition_penalty=1.3)


def test_a_conversation_is_the_same_here_and_there(live: Live, served_model: Path) -> None:
    there, here = Chat(Remote(live.url, None), GREEDY), Chat(Local(open_engine(served_model), None), GREEDY)
    for chat in (there, here):
        chat.do_system("You know the river.")
        for question in ("Where is the river?", "And the cloud?"):
            assert chat.take(question)
    assert there.messages == here.messages
    assert [message["role"] for message in there.messages] == ["system"] + ["user", "assistant"] * 2
    assert there.stats.startswith("20 tokens")
    assert int(there.stats.split("; ")[1].split()[0]) >= 32  # the second question begins in the server's cache
    assert there.partner.size([]) == f"{there.partner._tokens} tokens after the last answer"  # type: ignore[attr-defined]
    live.wait(live.idle)


def test_a_wrong_key_and_a_wrong_model(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    live = start_server(api_key="right")
    with pytest.raises(UserError, match=r"answered 401: .*; set FROMZERO_API_KEY to its key"):
        Remote(live.url, None)
    monkeypatch.setenv("FROMZERO_API_KEY", "right")
    assert Remote(live.url + "/v1", None).model == "tiny"
    chat = Chat(Remote(live.url, "huge"), GREEDY)
    with pytest.raises(UserError, match=r"answered 404: .*huge"):
        chat.take("Are you there?")
    assert not chat.messages


def test_who_leaves_an_answer_cancels_it(live: Live) -> None:
    remote = Remote(live.url, None)
    pieces = remote.ask(
        [{"role": "user", "content": "On and on"}], SamplingConfig(max_tokens=400, ignore_end=True), Reply()
    )
    assert [next(pieces) for _ in range(4)]
    pieces.close()  # type: ignore[attr-defined]
    live.wait(live.idle, 2)


def test_speed_of_the_live_server(live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--concurrency", "1", "4", "--requests", "6", "--prompt_tokens", "20", "--answer_tokens", "8"]
    assert main(["evaluate", "speed", "--url", live.url, *load, "--output", str(tmp_path)]) == 0
    levels = json.loads((tmp_path / "speed.json").read_text())["levels"]
    assert [level["concurrency"] for level in levels] == [1, 4]
    assert all(level["tokens"] == 48 and not level["errors"] for level in levels)
    assert all(level["prompt_tokens"] >= 6 * 20 for level in levels)
    assert "TTFT, ms" in capsys.readouterr().err
    chat = measure_speed(SpeedConfig(url=live.url, endpoint="chat", concurrency=(2,), requests=2, answer_tokens=8))
    assert chat["levels"][0]["tokens"] == 16
