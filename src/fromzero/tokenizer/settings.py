"""What can be set about training a tokenizer, and what each kind makes of it."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from fromzero.errors import UserError
from fromzero.tokenizer.base import Common, Tokenizer
from fromzero.tokenizer.chat import CHATML, IM_END, IM_START
from fromzero.tokenizer.patterns import compile_pattern, resolve_pattern
from fromzero.tokenizer.word import UNKNOWN, WORDS
from fromzero.tokenizer.wordpiece import ROLES

END_OF_TEXT = "<|endoftext|>"
_CHAT = (END_OF_TEXT, IM_START, IM_END)


class Kind(NamedTuple):
    """What a kind of tokenizer needs."""

    special_tokens: tuple[str, ...] = (*_CHAT, UNKNOWN)
    """Its special tokens, if none are given."""
    needed: tuple[str, ...] = (END_OF_TEXT,)
    """Those that it can't do without."""
    settings: tuple[str, ...] = ()
    """Settings beyond those of all kinds that it heeds."""
    bytes: int = 0
    """Ids that bytes take."""


KINDS = {
    "bpe": Kind(_CHAT, settings=("pattern", "tie_break"), bytes=256),
    "byte": Kind(_CHAT, bytes=256),
    "char": Kind(),
    "word": Kind(settings=("pattern",)),
    "wordpiece": Kind((*ROLES.values(), END_OF_TEXT), ("[UNK]", END_OF_TEXT), ("lowercase",)),
    "unigram": Kind(needed=(UNKNOWN, END_OF_TEXT), settings=("byte_fallback",)),
}


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How to train a tokenizer."""

    corpus: Path
    """Corpus to learn from, a folder made by `corpus build`. Only its training documents are read."""
    output: Path
    """Folder for the tokenizer."""
    vocab_size: int = 4096
    """Number of token ids, special tokens among them. For the kinds byte, char and word it is a limit, which a small
    corpus does not reach; a bpe without room for merges has the bytes for tokens."""
    pattern: str | None = None
    """bpe, word: where text is cut. 'fromzero' (default of bpe), 'gpt2' and so on, or an expression of the `regex`
    module; word's own default is a Chinese character, another word, a mark, or a run of blanks."""
    special_tokens: tuple[str, ...] | None = None
    """Tokens that plain text never becomes; the longest is found where one is a part of another. <|endoftext|> begins
    every document and has to be among them; <|im_start|> and <|im_end|> mark the turns of a chat, and <|unk|> is what
    a kind does not know. Default: all of these that the kind needs, and [CLS] and so on for wordpiece."""
    reserved_tokens: int = 5
    """Further special tokens, <|reserved_0|> and so on, whose meaning can be chosen after training."""
    tie_break: Literal["greatest", "first"] | None = None
    """bpe: which of two pairs that occur equally often is merged: the one of the greater bytes (default), or the one
    seen first."""
    kind: Literal["bpe", "byte", "char", "word", "wordpiece", "unigram"] = "bpe"
    """Byte-pair encoding (as in GPT), bytes, characters, words, WordPiece (BERT), or Unigram (T5)."""
    lowercase: bool | None = None
    """wordpiece: whether letters lose case and accents (default: yes)."""
    byte_fallback: bool | None = None
    """unigram: whether characters without a piece become their bytes (default: yes), or <|unk|>."""

    def __post_init__(self) -> None:
        kind = KINDS[self.kind]
        for name in ("pattern", "tie_break", "lowercase", "byte_fallback"):
            if getattr(self, name) is not None and name not in kind.settings:
                raise UserError(f"{name} does not apply to a tokenizer of the kind {self.kind}; leave it out")
        for needed in kind.needed:
            if needed not in self.all_special_tokens:
                what = "which begins every document" if needed == END_OF_TEXT else "which the kind needs"
                raise UserError(f"special_tokens lacks {needed}, {what}; add it")
        if twice := [token for token, n in Counter(self.all_special_tokens).items() if n > 1]:
            raise UserError(f"special_tokens has {twice[0]} twice; name each once")
        if "" in self.all_special_tokens:
            raise UserError("special_tokens has an empty text; remove it")
        if self.reserved_tokens < 0:
            raise UserError(f"reserved_tokens is {self.reserved_tokens}; it should be 0 or more")
        specials = len(self.all_special_tokens)
        bytes_ = self.vocab_size - self.room - specials
        least = bytes_ + specials + (self.kind not in ("bpe", "byte"))
        if self.vocab_size < least:
            raise UserError(
                f"vocab_size {self.vocab_size} is too small: {bytes_} bytes and {specials} special tokens "
                f"take {bytes_ + specials}; set it to {least} or more"
            )
        compile_pattern(self.expression)

    @property
    def all_special_tokens(self) -> tuple[str, ...]:
        """The special tokens with the reserved ones, in the order of their ids."""
        given = KINDS[self.kind].special_tokens if self.special_tokens is None else self.special_tokens
        return given + tuple(f"<|reserved_{i}|>" for i in range(self.reserved_tokens))

    @property
    def room(self) -> int:
        """Tokens to learn: what bytes and special tokens leave of the vocabulary."""
        falls_back = 256 if self.kind == "unigram" and self.byte_fallback is not False else 0
        return self.vocab_size - KINDS[self.kind].bytes - falls_back - len(self.all_special_tokens)

    @property
    def expression(self) -> str:
        """The pattern by which text is cut."""
        return resolve_pattern(self.pattern or ("fromzero" if self.kind == "bpe" else WORDS))

    @property
    def roles(self) -> dict[str, str]:
        """What the special tokens are for, as `Tokenizer` has it."""
        found = {"unk_token": UNKNOWN} | (ROLES if self.kind == "wordpiece" else {})
        return dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT) | {
            name: token for name, token in found.items() if token in self.all_special_tokens
        }

    @property
    def chat_template(self) -> str | None:
        """ChatML, where its markers are among the special tokens."""
        return CHATML if {IM_START, IM_END} <= {*self.all_special_tokens} else None

    @property
    def common(self) -> Common:
        """What all kinds of tokenizers take of it, but for the special tokens."""
        return {"roles": self.roles, "chat_template": self.chat_template}

    def special_ids(self, first: int) -> dict[str, int]:
        """The special tokens' ids, when they begin at this one."""
        return {token: first + i for i, token in enumerate(self.all_special_tokens)}

    def check_learned(self, learned: int) -> None:
        """Raise UserError unless as many tokens were learned as there is room for; characters don't heed the room."""
        if learned > self.room:
            raise UserError(
                f"vocab_size {self.vocab_size} is too small for {self.corpus}, whose characters need a token each: set "
                f"vocab_size to {self.vocab_size - self.room + learned} or more"
            )
        if learned < self.room:
            raise UserError(
                f"{self.corpus} is too small for vocab_size {self.vocab_size}: set vocab_size to "
                f"{self.vocab_size - self.room + learned} or less, or add documents"
            )


class Trained(NamedTuple):
    """What training gives."""

    tokenizer: Tokenizer
    pretokens: int
    """Different units that were learned from: pre-tokens, words or characters."""
    tokens: int
    """Tokens into which the training texts fall."""
