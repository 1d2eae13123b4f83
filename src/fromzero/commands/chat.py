"""`fromzero chat MODEL`: a conversation in the terminal, answers as they are made."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fromzero.commands import Verb
from fromzero.commands.generate import check_model
from fromzero.console import console, say, write_stream
from fromzero.device import DeviceName, pick_device
from fromzero.errors import UserError
from fromzero.inference import SamplingConfig, generate_text
from fromzero.inference.embedding import Embedder
from fromzero.inference.retrieval import Index, Passage, grounded
from fromzero.interop import load_model
from fromzero.model import Transformer
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.tuning.grading import prompt_ids

ROOM_FOR_ANSWER = 32  # tokens that a prompt must leave free; older turns are forgotten to make the room
HELP = "/new starts over, /quit ends (or Ctrl-D); Ctrl-C stops an answer"

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class ChatConfig:
    """Whom to talk to, and how it answers."""

    model: Path
    """Folder or GGUF file of a model tuned for chat, or the name of a downloaded one."""
    documents: Path | None = None
    """Folder of text files to answer from; what was shown to the model is named below each answer."""
    embedding: Path = Path("minilm-l6-v2")
    """Model that finds passages in the documents; as good in a language as it is (minilm-l6-v2: English)."""
    system: str | None = None
    """A system message before the first question."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.3))
    """How tokens are chosen."""
    device: DeviceName = "auto"
    """Where the model runs."""


def run(config: ChatConfig) -> None:
    """Read questions from the terminal (or standard input, one a line) and stream the answers."""
    folder = check_model(config.model)
    model = load_model(folder).to(pick_device(config.device)).eval()
    tokenizer = load_tokenizer(folder)
    index = Index(config.documents, Embedder(config.embedding, config.device)) if config.documents else None
    if sys.stdin.isatty():
        say(f"{config.model}: {model.parameter_count():,} parameters. {HELP}")
    start: Messages = [{"role": "system", "content": config.system}] if config.system else []
    messages = list(start)
    for question in _questions():
        if question in ("/new", "/quit", "/help"):
            if question == "/quit":
                return
            messages = list(start) if question == "/new" else messages
            say("a new conversation" if question == "/new" else HELP)
        elif question:
            messages.append({"role": "user", "content": question})
            try:
                messages.append({"role": "assistant", "content": _answer(model, tokenizer, messages, config, index)})
            except UserError as error:  # a question too long, say: the conversation goes on without it
                messages.pop()
                say(str(error))


def _questions() -> Iterator[str]:
    while True:
        try:
            line = console.input("[bold]> [/bold]") if sys.stdin.isatty() else input()
        except (EOFError, KeyboardInterrupt):
            return
        yield line.strip()


def _answer(
    model: Transformer, tokenizer: Tokenizer, messages: Messages, config: ChatConfig, index: Index | None
) -> str:
    """Stream one answer, and what it may come from; Ctrl-C ends it and keeps what was said."""
    _forget(messages, model, tokenizer)
    answer, shown = "", messages
    passages: list[Passage] = []
    if index:
        found = [passage for _, passage in index.search(messages[-1]["content"])]
        room = model.config.context - min(config.sampling.max_tokens, model.config.context // 4)
        shown, passages = grounded(messages, found, lambda made: len(prompt_ids(tokenizer, made)) <= room)
    generation = generate_text(model, tokenizer, prompt_ids(tokenizer, shown), config.sampling)
    try:
        for piece in generation:
            write_stream(piece)
            answer += piece
    except KeyboardInterrupt:
        say(" (stopped)")
    write_stream("\n")
    for number, passage in enumerate(passages, 1):
        say(f"[{number}] {passage.file}, line {passage.line}")
    if index and not passages:
        say("(no passage of the documents fits into the model's context)")
    if generation.reason != "stop":
        say("(the answer was cut off: " + _why(generation.reason) + ")")
    return answer


def _why(reason: str) -> str:
    return "the model's context is full; /new starts over" if reason == "context" else "--sampling.max_tokens reached"


def _forget(messages: Messages, model: Transformer, tokenizer: Tokenizer) -> None:
    """Drop the oldest turns until the conversation leaves room for an answer, and say so."""
    limit = model.config.context - ROOM_FOR_ANSWER
    first = 1 if messages[0]["role"] == "system" else 0
    dropped = 0
    while len(messages) > first + 1 and len(prompt_ids(tokenizer, messages)) > limit:
        del messages[first : first + 2]
        dropped += 1
    if dropped:
        say(f"(the context holds {model.config.context} tokens: the oldest {dropped} exchanges were forgotten)")


VERB = Verb(ChatConfig, run, "model")
