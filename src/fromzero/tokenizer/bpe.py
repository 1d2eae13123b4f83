"""Byte-level byte-pair encoding: any text to token ids and back, without loss and without an unknown token."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import regex

from fromzero.errors import UserError, nearest
from fromzero.tokenizer.chat import ChatTemplate
from fromzero.tokenizer.merge import merge
from fromzero.tokenizer.patterns import compile_pattern, resolve_pattern, split
from fromzero.tokenizer.text import check_unicode

CACHED_LETTERS = 64  # longer pre-tokens hardly ever come back
CACHE_SIZE = 1 << 17  # pre-tokens; then it is emptied, so that memory stays bounded

Special = Literal["text", "allow", "refuse"]


class BPETokenizer:
    """A vocabulary of byte strings, the merges that lead to them in order, a pre-token pattern and special tokens.

    vocabulary: byte string -> id, with all 256 single bytes in it. merges: pairs of ids, first learned first; the
    joined bytes of each are in the vocabulary. pattern: a name in `patterns.PATTERNS`, or an expression of the `regex`
    module. special_tokens: text -> id. All ids together are 0 to vocab_size - 1 without holes.
    end_of_text: the special token that begins every document. chat_template: Jinja source, or None.

    Raises UserError when these don't fit each other.
    """

    def __init__(
        self,
        vocabulary: Mapping[bytes, int],
        merges: Sequence[tuple[int, int]],
        pattern: str = "fromzero",
        special_tokens: Mapping[str, int] | None = None,
        end_of_text: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.vocabulary = dict(vocabulary)
        self.merges = list(merges)
        self.pattern = resolve_pattern(pattern)
        self.special_tokens = dict(special_tokens or {})
        self.end_of_text_token = end_of_text
        self.chat_template = self._chat_template(chat_template)
        if end_of_text is not None and end_of_text not in self.special_tokens:
            raise UserError(f"the end of text token {end_of_text!r} is not among the special tokens")
        self._table = _table(self.vocabulary, self.special_tokens)
        self._byte_ids = [self.vocabulary[bytes([byte])] for byte in range(256)]
        self._ranks, self._results = _ranks(self.merges, self.vocabulary, self._table)
        self._compiled = compile_pattern(self.pattern)
        self._cache: dict[str, list[int]] = {}

    def __repr__(self) -> str:
        return f"BPETokenizer(vocab_size={self.vocab_size}, special_tokens={list(self.special_tokens)})"

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self._table)

    @property
    def end_of_text(self) -> int:
        """The id that begins every document. Raises UserError when the tokenizer has none."""
        if self.end_of_text_token is None:
            raise UserError("this tokenizer has no end of text token; train one with <|endoftext|> among its specials")
        return self.special_tokens[self.end_of_text_token]

    def encode(self, text: str, special: Special = "text") -> list[int]:
        """Token ids of a text.

        special, for special tokens spelled out in the text: "text" reads them as any other text, so their ids never
        come out of it (right for everything from outside); "allow" makes them their ids; "refuse" raises UserError.
        Raises UserError for a lone surrogate, which is no character and has no UTF-8 form.
        """
        if special == "text":
            return self.encode_ordinary(text)
        if special not in ("allow", "refuse"):
            raise UserError(f"unknown policy special={special!r}{nearest(special, ('text', 'allow', 'refuse'))}")
        parts = self._special_pattern.split(text) if self.special_tokens else [text]  # odd parts: special tokens
        if special == "refuse" and len(parts) > 1:
            raise UserError(
                f"the text holds the special token {parts[1]} at character {len(parts[0])}; "
                "remove it, or encode it as text"
            )
        check_unicode(text)
        ids: list[int] = []
        for i, part in enumerate(parts):
            ids += [self.special_tokens[part]] if i % 2 else self._encode(part)
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Token ids of a text in which nothing is special. Raises UserError for a lone surrogate."""
        check_unicode(text)
        return self._encode(text)

    def encode_batch(self, texts: Iterable[str], special: Special = "text") -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text, special) for text in texts]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8, such as half a character at an end, become U+FFFD.

        Raises UserError for an id that the vocabulary does not have.
        """
        ids = list(ids)
        if skip_special_tokens:
            special = set(self.special_tokens.values())
            ids = [i for i in ids if i not in special]
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, exactly. Raises UserError for an id that the vocabulary does not have."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; of a special token, its text. Raises UserError for an id out of range."""
        if not 0 <= token < len(self._table):
            raise UserError(f"token id {token} is out of range: the vocabulary has ids 0 to {len(self._table) - 1}")
        return self._table[token]

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `tokenizers` and `transformers` open as well."""
        from fromzero.tokenizer.huggingface import save_tokenizer

        save_tokenizer(self, folder)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        cached = self._cache.get
        for piece in split(self._compiled, text):
            ids += cached(piece) or self._encode_piece(piece)
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        ids = merge([self._byte_ids[byte] for byte in piece.encode()], self._ranks, self._results)
        if len(piece) <= CACHED_LETTERS:
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[piece] = ids
        return ids

    def _chat_template(self, source: str | None) -> ChatTemplate | None:
        if source is None:
            return None
        names = ("bos_token", "eos_token", "pad_token") if self.end_of_text_token else ()
        return ChatTemplate(source, {name: str(self.end_of_text_token) for name in names})

    @functools.cached_property
    def _special_pattern(self) -> "regex.Pattern[str]":
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return regex.compile("(" + "|".join(map(regex.escape, longest_first)) + ")")


def byte_vocabulary(merges: Sequence[tuple[int, int]]) -> dict[bytes, int]:
    """The vocabulary in which ids 0 to 255 are the bytes in order and merge i makes id 256 + i."""
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return {token: i for i, token in enumerate(tokens)}


def _table(vocabulary: Mapping[bytes, int], special_tokens: Mapping[str, int]) -> list[bytes]:
    """id -> bytes, after checking that the ids are 0 to n - 1, each once."""
    if missing := [byte for byte in range(256) if bytes([byte]) not in vocabulary]:
        raise UserError(f"the vocabulary lacks the byte 0x{missing[0]:02X}; a byte-level one has all 256")
    if "" in special_tokens:
        raise UserError("a special token can't be the empty text; remove it")
    tokens = [*vocabulary.items(), *((text.encode(), i) for text, i in special_tokens.items())]
    table: list[bytes | None] = [None] * len(tokens)
    for token, i in tokens:
        if not 0 <= i < len(table):
            raise UserError(f"token {token!r} has id {i}, but {len(table)} tokens have ids 0 to {len(table) - 1}")
        if table[i] is not None:
            raise UserError(f"tokens {table[i]!r} and {token!r} have the same id {i}")
        table[i] = token
    return [token for token in table if token is not None]


def _ranks(
    merges: Sequence[tuple[int, int]], vocabulary: Mapping[bytes, int], table: Sequence[bytes]
) -> tuple[dict[tuple[int, int], int], list[int]]:
    """Pair -> rank and rank -> the id that replaces it."""
    ranks: dict[tuple[int, int], int] = {}
    results = []
    for rank, (left, right) in enumerate(merges):
        if not (0 <= left < len(table) and 0 <= right < len(table)):
            raise UserError(f"merge {rank} joins the ids {left} and {right}, of which one does not exist")
        joined = table[left] + table[right]
        if joined not in vocabulary:
            raise UserError(f"merge {rank} makes {joined!r}, which is not in the vocabulary")
        if ranks.setdefault((left, right), rank) != rank:
            raise UserError(f"merge {rank} of {table[left]!r} and {table[right]!r} was there before")
        results.append(vocabulary[joined])
    return ranks, results
