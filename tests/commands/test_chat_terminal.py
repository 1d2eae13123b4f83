"""The chat in the terminal: its commands, questions of several lines, and a real terminal with keys pressed."""

import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fromzero.commands import main
from fromzero.commands.chat import Chat, read_question
from fromzero.commands.partners import Local
from fromzero.console import whole_blocks
from fromzero.errors import UserError
from fromzero.inference import SamplingConfig
from fromzero.inference.opening import open_engine


@pytest.fixture
def chat(served_model: Path) -> Chat:
    return Chat(Local(open_engine(served_model), None), SamplingConfig(seed=1, max_tokens=12, ignore_end=True))


def contents(chat: Chat) -> list[str]:
    return [message["content"] for message in chat.messages]


def test_a_later_turn_begins_in_the_cache(chat: Chat) -> None:
    chat.take("/system The river near the mountain is quiet. Nobody saw the letter, but the garden remembers it.")
    chat.take("Where is the river?")
    first = int(re.findall(r"\d+", chat.stats.split("; ")[1])[1])
    chat.take("And where is the mountain near the garden?")
    assert isinstance(chat.partner, Local)
    assert chat.partner.engine.pool.free == chat.partner.engine.pool.count
    cached, prompt = map(int, re.findall(r"\d+", chat.stats.split("; ")[1]))
    assert prompt > cached >= first // 16 * 16 >= 48  # whole pages of the first prompt, at least


def test_taking_back_and_answering_anew(chat: Chat) -> None:
    chat.take("/system You are a river.")
    chat.take("Who are you?")
    first = contents(chat)
    chat.take("/retry")
    assert contents(chat) == first  # the same seed
    chat.take("/set seed 2")
    chat.take("/retry")
    assert contents(chat)[:2] == first[:2]
    assert contents(chat) != first
    chat.take("/undo")
    assert contents(chat) == ["You are a river."]
    for command in ("/undo", "/retry"):
        with pytest.raises(UserError, match="there is no answer to take back"):
            chat.take(command)
    chat.take("Again?")
    chat.take("/new")
    assert contents(chat) == ["You are a river."]
    assert chat.take("")
    assert not chat.take("/quit")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sett temperature 1", "there is no command /sett; did you mean 'set'?"),
        ("/set temperatur 1", "/set: unknown key 'temperatur'; did you mean 'temperature'?"),
        ("/set temperature hot", "/set: --temperature takes a number, not 'hot'"),
        ("/set temperature -1", "temperature is -1.0; it must be"),
        ("/set stop [", "/set stop does not take '['"),
        ("/load /nowhere/at/all", "holds no conversation"),
    ],
)
def test_mistakes_leave_everything_as_it_is(chat: Chat, line: str, message: str) -> None:
    before = chat.sampling
    with pytest.raises(UserError) as raised:
        chat.take(line)
    assert message in str(raised.value)
    assert chat.sampling == before
    assert not chat.messages


def test_a_conversation_is_kept_and_gone_on_with(chat: Chat, tmp_path: Path) -> None:
    chat.take("Where is the river?")
    kept, other = tmp_path / "talk.json", tmp_path / "letter.txt"
    for _ in range(2):  # written over: it is a conversation
        chat.take(f"/save {kept}")
    before = list(chat.messages)
    chat.take("/new")
    chat.take(f"/load {kept}")
    assert chat.messages == before == json.loads(kept.read_text())["messages"]
    other.write_text("dear")
    with pytest.raises(UserError, match=r"letter.txt' holds no conversation"):
        chat.take(f"/save {other}")
    assert other.read_text() == "dear"


def test_a_question_that_is_too_long_is_forgotten(chat: Chat) -> None:
    with pytest.raises(UserError, match="the model's context is 1024"):
        chat.take("river " * 2000)
    assert not chat.messages
    chat.take("The river?")
    assert len(chat.messages) == 2


@pytest.mark.parametrize(
    ("lines", "question"),
    [
        (["one\\", "two \\", "three"], "one\ntwo \nthree"),
        (['"""one', "", '  two"""'], "one\n\n  two"),
        (['"""one"""'], "one"),
        (['"""', "the end is missing"], '"""\nthe end is missing'),
        (["  plain  "], "plain"),
    ],
)
def test_questions_of_several_lines(lines: list[str], question: str) -> None:
    coming = iter(lines)

    def read(_: str) -> str:
        try:
            return next(coming)
        except StopIteration:
            raise EOFError from None

    assert read_question(read) == question


def test_who_can_not_be_talked_to(served_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = open_engine(served_model)
    engine.tokenizer.chat_template = None
    with pytest.raises(UserError, match="the model has no chat template"):
        Local(engine, None)
    assert main(["chat"]) == 2
    assert "name a model, or a server with --url" in capsys.readouterr().err
    assert main(["chat", "--url", "http://127.0.0.1:9"]) == 2
    assert "http://127.0.0.1:9 can't be reached" in " ".join(capsys.readouterr().err.split())


def test_blocks_are_whole_at_blank_lines_outside_of_code() -> None:
    text = "# Title\n\nwords\n\n```py\na = 1\n\nb = 2\n"
    assert whole_blocks(text) == (text.index("```"), "```")
    assert whole_blocks(text + "```\n\nend") == (len(text) + 5, "")
    assert whole_blocks("one line") == (0, "")
    assert whole_blocks("~~~\n```\n\n") == (0, "~~~")


class Terminal:
    """A process that has a terminal for itself."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self.master, self.seen = process, master, ""

    def until(self, text: str) -> str:
        """What it writes up to there."""
        end = time.monotonic() + 120
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536).decode()
        found, _, self.seen = self.seen.partition(text)
        return found

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())


@contextmanager
def terminal(state: Path, *line: object) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, *map(str, line)], stdin=slave, stdout=slave, stderr=slave, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_in_a_terminal(served_model: Path, tmp_path: Path) -> None:
    """Ctrl-C ends an answer and nothing else; the arrow key brings back what an earlier run was asked."""
    arguments = ("-m", "fromzero", "chat", served_model, "--sampling.max_tokens", 900, "--sampling.ignore_end", "true")
    with terminal(tmp_path, *arguments) as chat:
        chat.until("> ")
        chat.type("Where is the river?\n")
        time.sleep(0.3)
        os.kill(chat.process.pid, signal.SIGINT)
        chat.until("(stopped)")
        chat.type("/tokens\n")
        chat.until(" tokens of 1,024")
        chat.until("> ")
        chat.type("\x04")
        assert chat.process.wait(20) == 0
    history = tmp_path / "fromzero" / "chat_history"
    assert history.read_text().splitlines() == ["Where is the river?", "/tokens"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with terminal(tmp_path, *arguments) as chat:
        chat.until("> ")
        chat.type("\x1b[A")
        chat.until("/tokens")
        chat.type("\n")
        chat.until("0 tokens of 1,024")


def test_markdown_in_a_terminal(tmp_path: Path) -> None:
    pieces = [
        "# Ti",
        "tle\n\nSome **bo",
        "ld** \x1b[31mtext\n\n",
        "```py\na = 1\n\n",
        *["x = 1\n"] * 50,
        "```\n",
        "- item",
    ]
    code = f"""from fromzero.console import streamed_markdown
with streamed_markdown() as write:
    for piece in {pieces!r}:
        write(piece)
print('THE END')"""
    with terminal(tmp_path, "-c", code) as shown:
        text = shown.until("THE END")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "**" not in plain
    assert "\\x1b[31mtext" in plain  # what a model writes does not command the terminal
    assert plain.count("• item") >= 1
    assert plain.rindex("Title") < plain.rindex("bold") < plain.rindex("x = 1") < plain.rindex("item")
