"""`fromzero tokenizer encode`: text -> token ids, to look at."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from fromzero.commands import Verb
from fromzero.console import printable, say
from fromzero.tokenizer import load_tokenizer


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """What to encode."""

    tokenizer: Path
    """A folder with a tokenizer."""
    text: str = "-"
    """The text; '-' reads it from standard input."""
    special: Literal["text", "allow", "refuse"] = "text"
    """Special tokens spelled out in the text: read as text, made their ids, or refused."""


def encode(config: EncodeConfig) -> None:
    """Print a line for each token: its id, a tab, and its text."""
    tokenizer = load_tokenizer(config.tokenizer)
    text = sys.stdin.read() if config.text == "-" else config.text
    ids = tokenizer.encode(text, config.special)
    for token in ids:
        piece = tokenizer.token_bytes(token).decode("utf-8", errors="backslashreplace")
        print(token, printable(piece).replace("\n", "\\n").replace("\t", "\\t"), sep="\t")
    say(f"{len(ids)} tokens, {len(text)} characters, {len(text.encode())} bytes")


VERB = Verb(EncodeConfig, encode, positional="tokenizer")
