"""`fromzero chat MODEL`: a conversation in the terminal, answers as they are made."""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fromzero.commands import Verb
from fromzero.commands.partners import Local, Messages, Partner, Remote, Reply
from fromzero.config import from_mapping
from fromzero.console import printable, say, streamed_markdown
from fromzero.device import DeviceName
from fromzero.errors import UserError, nearest
from fromzero.files import to_plain, write_json
from fromzero.inference import SamplingConfig
from fromzero.inference.embedding import Embedder
from fromzero.inference.engine import EngineConfig
from fromzero.inference.opening import open_engine
from fromzero.inference.retrieval import Index
from fromzero.tokenizer.messages import check_messages

BLOCK = '"""'
HELP = f"""/new starts over, /quit ends (or Ctrl-D); Ctrl-C stops an answer
/undo takes the last question and its answer back, /retry answers it anew
/system TEXT says who the model is to be; /set temperature 0.5 and the like how it answers, /settings what is set
/save FILE and /load FILE keep a conversation; /tokens says how long it is, /stats how fast the last answer was
A line that ends with \\ goes on in the next; {BLOCK} begins a question of several lines, and ends it"""
ENDINGS = {
    "stop": "",
    "stopped": " (stopped)",
    "context": "(the answer was cut off: the model's context is full; /new starts over)",
    "length": "(the answer was cut off: --sampling.max_tokens reached; /set max_tokens changes it)",
}


@dataclass(frozen=True)
class ChatConfig:
    """Whom to talk to, and how it answers."""

    model: Path | None = None
    """Folder or GGUF file of a model tuned for chat, the name of a downloaded one, or what the server at `url` calls
    it."""
    adapters: Path | None = None
    """Folder of adapters that a model on this machine is to have."""
    url: str | None = None
    """A server that speaks OpenAI's protocol, such as http://127.0.0.1:8000; its key is in FROMZERO_API_KEY."""
    documents: Path | None = None
    """Folder of text files to answer from; what was shown to the model is named below each answer."""
    embedding: Path = Path("minilm-l6-v2")
    """Model that finds passages in the documents; as good in a language as it is (minilm-l6-v2: English)."""
    system: str | None = None
    """A system message before the first question."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.3))
    """How tokens are chosen."""
    verbose: bool = False
    """Whether to say after each answer how fast it was."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How a model on this machine is run."""
    device: DeviceName = "auto"
    """Where the model runs."""


def run(config: ChatConfig) -> None:
    """Read questions from the terminal (or standard input) and stream the answers."""
    chat = Chat(_partner(config), config.sampling, config.verbose)
    chat.do_system(config.system or "")
    if sys.stdin.isatty():
        say(f"{config.model or config.url}: ask, or see /help")
    with _history():
        going = True
        while going:
            try:
                going = chat.take(read_question(input))
            except UserError as error:  # a question too long, say: the conversation goes on without it
                say(printable(str(error)))
            except EOFError:
                return
            except KeyboardInterrupt:
                say("(/quit ends)")
                going = sys.stdin.isatty()


def _partner(config: ChatConfig) -> Partner:
    if config.url and (config.documents or config.adapters):
        raise UserError("--documents and --adapters are for a model on this machine; leave out --url")
    if config.url:
        return Remote(config.url, None if config.model is None else config.model.as_posix())
    if config.model is None:
        raise UserError("name a model, or a server with --url")
    index = Index(config.documents, Embedder(config.embedding, config.device)) if config.documents else None
    return Local(open_engine(config.model, config.device, config.engine, config.adapters), index)


class Chat:
    """What was said, and what can be done with it."""

    def __init__(self, partner: Partner, sampling: SamplingConfig, verbose: bool = False) -> None:
        self.partner, self.sampling, self.verbose = partner, sampling, verbose
        self.messages: Messages = []
        self.stats = "nothing was asked yet"

    def take(self, line: str) -> bool:
        """Answer a question, or do what a /command says. False when it ends the conversation. Raises UserError."""
        name, _, rest = line.removeprefix("/").partition(" ")
        if line.startswith("/") and name.isalpha():
            commands = {method.removeprefix("do_"): method for method in dir(self) if method.startswith("do_")}
            if name != "quit" and name not in commands:
                raise UserError(f"there is no command /{name}{nearest(name, commands)}")
            return name != "quit" and (getattr(self, commands[name])(rest.strip()) or True)
        if line:
            self.messages.append({"role": "user", "content": line})
            self._answer()
        return True

    def _answer(self) -> None:
        """Stream one answer; Ctrl-C ends it and keeps what was said."""
        reply, text, begun, first = Reply(), "", time.monotonic(), 0.0
        try:
            with streamed_markdown() as write:
                for piece in self.partner.ask(self.messages, self.sampling, reply):
                    first = first or time.monotonic()
                    text += piece
                    write(piece)
        except KeyboardInterrupt:
            reply.reason = "stopped"
        except UserError:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": text})
        for note in filter(None, (*reply.notes, ENDINGS.get(reply.reason, f"({reply.reason})"))):
            say(printable(note))
        rate = (reply.tokens - 1) / (time.monotonic() - first) if reply.tokens > 1 else 0
        self.stats = f"{reply.tokens} tokens, the first after {first - begun:.2f} s, then {rate:.1f} a second; "
        self.stats += f"{reply.cached} of the prompt's {reply.prompt} were in the cache"
        if self.verbose:
            say(self.stats)

    def do_help(self, _: str) -> None:
        """What there is."""
        say(HELP)

    def do_new(self, _: str) -> None:
        """Start over, with the same system message."""
        self.messages = [message for message in self.messages if message["role"] == "system"]
        say("a new conversation")

    def do_system(self, text: str) -> None:
        """Change the system message; an empty one leaves it out."""
        rest = [message for message in self.messages if message["role"] != "system"]
        self.messages = [*([{"role": "system", "content": text}] if text else []), *rest]

    def do_set(self, rest: str) -> None:
        """Change a setting of sampling."""
        name, _, value = rest.partition(" ")
        if not value:
            raise UserError("/set takes a name and a value, as in: /set temperature 0.5 (/settings shows the names)")
        try:
            changed = {**to_plain(self.sampling), name: yaml.safe_load(value)}
        except yaml.YAMLError:
            raise UserError(f"/set {name} does not take '{value}'") from None
        self.sampling = from_mapping(SamplingConfig, changed, "/set")

    def do_settings(self, _: str) -> None:
        """Show them."""
        say("\n".join(f"{name}: {value}" for name, value in to_plain(self.sampling).items()))

    def do_undo(self, _: str) -> None:
        """Forget the last question and its answer."""
        self._take_back("assistant")
        self._take_back("user")
        say(f"taken back; {len(self.messages)} messages are left")

    def do_retry(self, _: str) -> None:
        """Answer the last question anew."""
        self._take_back("assistant")
        self._answer()

    def _take_back(self, role: str) -> None:
        if not self.messages or self.messages[-1]["role"] != role:
            raise UserError("there is no answer to take back")
        self.messages.pop()

    def do_save(self, name: str) -> None:
        """Keep the conversation; only another conversation is written over."""
        if (path := _path("save", name)).exists():
            _read(path)
        try:
            write_json(path, {"messages": self.messages})
        except OSError as error:
            raise UserError(f"'{name}' can't be written ({error.strerror}); name another file") from error

    def do_load(self, name: str) -> None:
        """Go on with one that was kept."""
        self.messages = _read(_path("load", name))
        say(f"{len(self.messages)} messages")

    def do_tokens(self, _: str) -> None:
        """How long it is."""
        say(self.partner.size(self.messages))

    def do_stats(self, _: str) -> None:
        """How fast the last answer was."""
        say(self.stats)


def _path(command: str, name: str) -> Path:
    if not name:
        raise UserError(f"/{command} takes the name of a file")
    return Path(name)


def _read(path: Path) -> Messages:
    try:
        return check_messages(json.loads(path.read_text(encoding="utf-8"))["messages"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"'{path}' holds no conversation ({reason}); name another file") from error


def read_question(read: Callable[[str], str]) -> str:
    """A line, lines that end with a backslash and the next, or what is between triple quotes. Raises EOFError."""
    shown, more = ("> ", ". ") if sys.stdin.isatty() else ("", "")
    text = read(shown).strip()
    with suppress(EOFError):
        if text.startswith(BLOCK):
            while len(text) < 2 * len(BLOCK) or not text.endswith(BLOCK):
                text += "\n" + read(more).rstrip()
            return text.removeprefix(BLOCK).removesuffix(BLOCK).strip()
        while text.endswith("\\"):
            text = text.removesuffix("\\") + "\n" + read(more).strip()
    return text


@contextmanager
def _history() -> Iterator[None]:
    """What was typed, for the arrow keys, in a file that only the user can read."""
    if not sys.stdin.isatty() or importlib.util.find_spec("readline") is None:  # Windows has none
        yield
        return
    import readline

    file = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "fromzero" / "chat_history"
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
            readline.write_history_file(file)


VERB = Verb(ChatConfig, run, "model")
