"""What every tokenizer offers, whatever its kind: text to ids and back, special tokens, saving."""

import abc
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import UserError, nearest
from fromzero.tokenizer.added import AddedToken, AddedTokens, Found
from fromzero.tokenizer.chat import ChatTemplate
from fromzero.tokenizer.normalize import Normalizer
from fromzero.tokenizer.text import check_unicode

Special = Literal["text", "allow", "refuse"]
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token", "cls_token", "sep_token")


class Common(TypedDict, total=False):
    """The arguments of `Tokenizer` that its kinds pass on as they are."""

    roles: Mapping[str, str]
    chat_template: Any
    prefix: Sequence[str]
    suffix: Sequence[str]
    leading_space: bool
    normalizer: Normalizer | None


class Tokenizer(abc.ABC):
    """The shared half of all kinds; a kind adds `_encode`, and what it learned.

    tokens: by id, the bytes that the id decodes to (of a special token, its text); None where an id has no token.
    special_tokens: text -> id. roles: a name in ROLES, as Hugging Face's configs have them -> a special token's text.
    chat_template: Jinja source, or None. prefix, suffix: special tokens that `add_special_tokens` puts around a text.
    leading_space: the first word of a text is encoded as if a blank stood before it, which decoding removes.
    normalizer: what is done to a text before it is encoded (never to special tokens); decoding does not undo it.

    Raises UserError when these don't fit each other.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        tokens: Sequence[bytes | None],
        special_tokens: Mapping[str, int] | None = None,
        roles: Mapping[str, str] | None = None,
        chat_template: str | None = None,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        leading_space: bool = False,
        *,
        normalizer: Normalizer | None = None,
    ) -> None:
        self.tokens = list(tokens)
        self.special_tokens = dict(special_tokens or {})
        self.roles = dict(roles or {})
        self.prefix, self.suffix, self.leading_space = tuple(prefix), tuple(suffix), leading_space
        self.normalizer = normalizer
        self.added_tokens = {text: AddedToken(i) for text, i in self.special_tokens.items()}
        self._check()
        self.chat_template = None if chat_template is None else ChatTemplate(chat_template, self._template_variables())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens={list(self.special_tokens)})"

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.tokens)

    @property
    def end_of_text_token(self) -> str | None:
        """The special token that begins every document: the bos token, or the eos token where there is none."""
        return self.roles.get("bos_token") or self.roles.get("eos_token")

    @property
    def end_of_text(self) -> int:
        """The id that begins every document. Raises UserError when the tokenizer has none."""
        if self.end_of_text_token is None:
            raise UserError("this tokenizer has no end of text token; train one with <|endoftext|> among its specials")
        return self.special_tokens[self.end_of_text_token]

    @property
    def unknown_id(self) -> int | None:
        """The id for text that the vocabulary lacks; None without one, or where it also begins documents (GPT-2)."""
        text = self.roles.get("unk_token")
        return None if text in (None, self.end_of_text_token) else self.special_tokens[text]

    @abc.abstractmethod
    def _encode(self, text: str) -> list[int]:
        """Ids of a normalised text without lone surrogates in which nothing is special."""

    def _encode_later(self, text: str) -> list[int]:
        """`_encode` of what stands after a special token: kinds that treat the first word in its own way differ."""
        return self._encode(text)

    def encode(
        self, text: str, special: Special = "text", add_special_tokens: bool = False, later: bool = False
    ) -> list[int]:
        """Token ids of a text.

        special, for special tokens spelled out in the text: "text" reads them as any other text, so their ids never
        come out of it (right for everything from outside); "allow" makes them their ids; "refuse" raises UserError.
        add_special_tokens: put `prefix` and `suffix` around it, such as BERT's [CLS] and [SEP].
        later: other tokens stand before it, so its first word is not the first of a text.
        Raises UserError for a lone surrogate, which is no character and has no UTF-8 form.
        """
        check_unicode(text)
        if special not in ("text", "allow", "refuse"):
            raise UserError(f"unknown policy special={special!r}{nearest(special, ('text', 'allow', 'refuse'))}")
        ids = self._encode_found(text, special, later)
        if add_special_tokens:
            before, after = ([self.special_tokens[token] for token in part] for part in (self.prefix, self.suffix))
            ids = [*before, *ids, *after]
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Token ids of a text in which nothing is special. Raises UserError for a lone surrogate."""
        check_unicode(text)
        return self._encode_found(text, "text")

    def encode_array(self, text: str) -> NDArray[np.int32]:
        """`encode_ordinary` as an array, the fastest form where the kind is compiled."""
        return np.array(self.encode_ordinary(text), np.int32)

    def encode_arrays(self, texts: Iterable[str], threads: int | None = None) -> list[NDArray[np.int32]]:
        """`encode_array` of each text; kinds that are compiled take several threads."""
        return [self.encode_array(text) for text in texts]

    def encode_batch(
        self,
        texts: Iterable[str],
        special: Special = "text",
        add_special_tokens: bool = False,
        threads: int | None = None,
    ) -> list[list[int]]:
        """`encode` of each text; compiled kinds take as many threads as there are cores, or as given."""
        if special == "text" and not add_special_tokens:
            return self._encode_many(texts, threads)
        return [self.encode(text, special, add_special_tokens) for text in texts]

    def _encode_many(self, texts: Iterable[str], threads: int | None) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """The ids of `encode_ordinary` of all the texts joined, one at a time; kinds that can keep memory constant."""
        yield from self.encode_ordinary("".join(texts))

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8, such as half a character at an end, become U+FFFD.

        Raises UserError for an id that the vocabulary does not have.
        """
        text = self.decode_bytes(ids, skip_special_tokens).decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.leading_space else text

    def decode_bytes(self, ids: Iterable[int], skip_special_tokens: bool = False) -> bytes:
        """The bytes of ids joined. Raises UserError for an id that the vocabulary does not have."""
        skipped = frozenset(self.special_tokens.values()) if skip_special_tokens else frozenset()
        return b"".join([self.token_bytes(i) for i in ids if i not in skipped])

    def decode_with_offsets(self, ids: Iterable[int]) -> tuple[str, list[int]]:
        """The text of ids, and for each id the index of the character in which its bytes begin (as in tiktoken)."""
        pieces = [self.token_bytes(i) for i in ids]
        begins = [[(byte & 0xC0) != 0x80 for byte in piece] for piece in pieces]
        starts = itertools.accumulate(map(sum, begins), initial=0)
        offsets = [max(0, start - (begin[:1] == [False])) for start, begin in zip(starts, begins, strict=False)]
        return b"".join(pieces).decode("utf-8", errors="replace"), offsets

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; of a special token, its text. Raises UserError for an id out of range."""
        found = self.tokens[token] if 0 <= token < len(self.tokens) else None
        if found is None:
            raise UserError(f"token id {token} is out of range: the vocabulary has ids 0 to {len(self.tokens) - 1}")
        return found

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which `tokenizers` and `transformers` open as well."""
        from fromzero.tokenizer.huggingface import save_tokenizer

        save_tokenizer(self, folder)

    def set_added_tokens(self, tokens: Mapping[str, AddedToken]) -> None:
        """Say how tokens of the vocabulary are found in a text; of those that are not special, that they are found.

        They may have been among `special_tokens`, which keeps the special ones. Raises UserError where the vocabulary
        has something else.
        """
        for text, token in tokens.items():
            if not text or not 0 <= token.id < len(self.tokens) or self.tokens[token.id] is None:
                raise UserError(f"the added token {text!r} has id {token.id}, which the vocabulary lacks")
        self.added_tokens |= tokens
        self.special_tokens = {text: token.id for text, token in self.added_tokens.items() if token.special}
        self._check()
        self.__dict__.pop("_finders", None)

    def _encode_found(self, text: str, special: Special, later: bool = False) -> list[int]:
        """Ids of a text, added tokens first; those that are not special are found under every policy."""
        encode = self._encode_later if later else self._encode
        if len(self.special_tokens) == len(self.added_tokens) and special == "text":
            return encode(self._normal(text))
        ids: list[int] = []
        for found in self._cut(text, special):
            if found.token:
                ids.append(found.token.id)
            elif found.text:
                ids += encode(found.text)
            encode = self._encode_later
        return ids

    def _cut(self, text: str, special: Special) -> Iterator[Found]:
        """Normalised stretches of text, and the added tokens between them."""
        in_raw, in_normalized = self._finders
        place = 0
        for raw in in_raw.cut(text, special != "text"):
            for found in [raw] if raw.token else in_normalized.cut(self._normal(raw.text), special != "text"):
                if special == "refuse" and found.token and found.token.special:
                    where = f"{found.text} at character {place}"
                    raise UserError(f"the text holds the special token {where}; remove it, or encode it as text")
                yield found
            place += len(raw.text)

    @functools.cached_property
    def _finders(self) -> tuple[AddedTokens, AddedTokens]:
        """Of the tokens that are looked for in the text as it is, and of those in the normalised text."""
        tokens = self.added_tokens.items()
        raw = {text: token for text, token in tokens if not token.normalized}
        return AddedTokens(raw), AddedTokens({text: token for text, token in tokens if token.normalized})

    def _normal(self, text: str) -> str:
        return self.normalizer(text) if self.normalizer else text

    def _template_variables(self) -> dict[str, str]:
        fallback = dict.fromkeys(("bos_token", "eos_token", "pad_token"), self.end_of_text_token)
        return {name: text for name, text in {**fallback, **self.roles}.items() if text is not None}

    def _check(self) -> None:
        for text, i in self.special_tokens.items():
            if not text:
                raise UserError("a special token can't be the empty text; remove it")
            if not 0 <= i < len(self.tokens) or self.tokens[i] != text.encode():
                raise UserError(f"the special token {text!r} has id {i}, where the vocabulary has something else")
        for name, text in [*self.roles.items(), *(("prefix", t) for t in self.prefix + self.suffix)]:
            if name not in (*ROLES, "prefix"):
                raise UserError(f"unknown role {name!r}{nearest(name, ROLES)}")
            if text not in self.special_tokens:
                raise UserError(f"the {name.replace('_', ' ')} {text!r} is not among the special tokens")


def token_table(
    ordinary: Iterable[tuple[bytes, int]], special_tokens: Mapping[str, int], size: int | None = None
) -> list[bytes | None]:
    """id -> bytes of ordinary and special tokens; without `size`, the ids must be 0 to n - 1, each once.

    Raises UserError for an id that is out of range or taken.
    """
    pairs = [*ordinary, *((text.encode(), i) for text, i in special_tokens.items())]
    table: list[bytes | None] = [None] * (len(pairs) if size is None else size)
    for token, i in pairs:
        if not 0 <= i < len(table):
            raise UserError(f"token {token!r} has id {i}, but {len(table)} tokens have ids 0 to {len(table) - 1}")
        if table[i] is not None:
            raise UserError(f"tokens {table[i]!r} and {token!r} have the same id {i}")
        table[i] = token
    return table
