"""`fromzero tokenizer encode`: text -> token ids, to look at."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from fromzero.commands import Verb
from fromzero.console import say
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.compare import shown


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """What to encode."""

    tokenizer: Path
    """A folder or file with a tokenizer, ours or another's."""
    text: str = "-"
    """The text; '-' reads it from standard input."""
    special: Literal["text", "allow", "refuse"] = "text"
    """Special tokens spelled out in the text: read as text, made their ids, or refused."""
    add_special_tokens: bool = False
    """Put around the text what the tokenizer has for it, such as BERT's [CLS] and [SEP]."""


def encode(config: EncodeConfig) -> None:
    """Print a line for each token: its id, a tab, and its text, with signs for blanks and for bytes of a character."""
    tokenizer = load_tokenizer(config.tokenizer)
    # What is no UTF-8 becomes lone surrogates, and encoding says where the first one is.
    text = sys.stdin.buffer.read().decode(errors="surrogateescape") if config.text == "-" else config.text
    ids = tokenizer.encode(text, config.special, config.add_special_tokens)
    for token in ids:
        print(token, shown(tokenizer.token_bytes(token)), sep="\t")
    say(f"{len(ids)} tokens, {len(text)} characters, {len(text.encode())} bytes")


VERB = Verb(EncodeConfig, encode, positional="tokenizer")
