"""WordPiece, the subwords of BERT (Schuster & Nakajima 2012; Devlin et al. 2019): from the left, the longest that fits.

The file's tokens tell whether they begin a word: one that goes on has `##` before it. Decoding puts a blank before
each token that begins a word, so a text comes back but for its blanks, its case, and what else BERT's normalisation
takes away.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

import regex

from fromzero.errors import UserError
from fromzero.tokenizer.base import Common, Tokenizer, token_table
from fromzero.tokenizer.foreign import read_text
from fromzero.tokenizer.normalize import WHITE_SPACE, bert
from fromzero.tokenizer.word import check_unknown

CONTINUES = "##"
MAX_WORD = 100  # characters; BERT takes longer words for unknown
# As the special tokens of a published BERT are called.
ROLES = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "pad", "mask", "cls", "sep")}
CACHE_SIZE = 1 << 17  # words; then it is emptied, so that memory stays bounded

_SIGNS = r"!-/:-@\[-`{-~\p{P}"  # what is neither letter nor digit in ASCII, and all punctuation beyond
WORDS = rf"[{_SIGNS}]|[^{WHITE_SPACE}{_SIGNS}]+"
_WORDS = regex.compile(WORDS)


class WordPieceTokenizer(Tokenizer):
    """A vocabulary of word beginnings and continuations.

    vocabulary: token -> id, without the special tokens; `##` begins those that continue a word. unknown: the special
    token for a word that can't be put together, or has more than max_word characters. normalizer: None leaves the
    text as it is. The rest as in `Tokenizer`.

    Raises UserError when these don't fit each other.
    """

    kind = "wordpiece"

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        unknown: str = "[UNK]",
        special_tokens: Mapping[str, int] | None = None,
        *,
        continues: str = CONTINUES,
        max_word: int = MAX_WORD,
        **common: Unpack[Common],
    ) -> None:
        specials = dict(special_tokens or {})
        check_unknown(unknown, specials)
        self.vocabulary, self.unknown, self.continues, self.max_word = dict(vocabulary), unknown, continues, max_word
        table = token_table(((_decoded(token, continues), i) for token, i in vocabulary.items()), specials)
        super().__init__(table, specials, **(common | {"leading_space": True}))
        self._ordinary = frozenset(self.vocabulary.values())
        self._longest = max(map(len, self.vocabulary), default=0)
        self._cache: dict[str, list[int]] = {}

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, a blank before a special one as before each that begins a word."""
        return (b"" if token in self._ordinary else b" ") + super().token_bytes(token)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        cached = self._cache.get
        for word in cut_words(text):
            ids += cached(word) or self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> list[int]:
        ids = list(self._pieces(word)) if len(word) <= self.max_word else [-1]
        if -1 in ids:
            ids = [self.special_tokens[self.unknown]]
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        self._cache[word] = ids
        return ids

    def _pieces(self, word: str) -> Iterator[int]:
        """Ids from left to right, each of the longest token that fits; -1, and an end, where none does."""
        start = 0
        while start < len(word):
            mark = self.continues if start else ""
            longest = min(len(word), start + self._longest)
            ends = (end for end in range(longest, start, -1) if mark + word[start:end] in self.vocabulary)
            end = next(ends, None)
            if end is None:
                yield -1
                return
            yield self.vocabulary[mark + word[start:end]]
            start = end


def around(special_tokens: Iterable[str]) -> Common:
    """The arguments that put [CLS] and [SEP] around a text, where they are among the special tokens."""
    first, last = ([token] if token in special_tokens else [] for token in ("[CLS]", "[SEP]"))
    return {"prefix": first, "suffix": last}


def cut_words(text: str) -> list[str]:
    """BERT's pre-tokens: blanks separate them, and each punctuation mark is one of its own."""
    words: list[str] = _WORDS.findall(text)
    return words


def load_vocab_txt(
    path: Path, lowercase: bool = True, handle_chinese_chars: bool = True, strip_accents: bool | None = None
) -> WordPieceTokenizer:
    """Read BERT's own format: a token a line, whose number is its id. The file does not say how text is normalised.

    What stands in brackets as in ROLES is special. Raises UserError when the file is broken or lacks [UNK].
    """
    tokens = [line.rstrip("\r") for line in read_text(Path(path)).removesuffix("\n").split("\n")]
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        line = next(i for i, token in enumerate(tokens) if ids[token] != i)
        raise UserError(f"{path}:{line + 1} has the token {tokens[line]!r}, which line {ids[tokens[line]] + 1} repeats")
    specials = {token: ids.pop(token) for token in ROLES.values() if token in ids}
    if "[UNK]" not in specials:
        raise UserError(f"{path} lacks [UNK], the token for unknown words; is it a BERT vocabulary?")
    common: Common = {"roles": {role: token for role, token in ROLES.items() if token in specials}, **around(specials)}
    common["normalizer"] = bert(True, handle_chinese_chars, strip_accents, lowercase)
    return WordPieceTokenizer(ids, "[UNK]", specials, **common)


def save_vocab_txt(tokenizer: WordPieceTokenizer, path: Path) -> None:
    """Write BERT's own format. Raises UserError for a token with a line end, and for a special one of another name."""
    if more := [token for token in tokenizer.special_tokens if token not in ROLES.values()]:
        raise UserError(f"vocab.txt can't say that {more[0]!r} is a special token; save it as tokenizer.json")
    ids = tokenizer.vocabulary | tokenizer.special_tokens
    tokens = sorted(ids, key=lambda token: ids[token])
    if broken := [token for token in tokens if "\n" in token or "\r" in token]:
        raise UserError(f"the token {broken[0]!r} holds a line end, so it has no place in vocab.txt")
    Path(path).write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")


def write_wordpiece(tokenizer: WordPieceTokenizer) -> dict[str, Any]:
    """The pre-tokenizer, decoder and model of `tokenizer.json`."""
    return {
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": tokenizer.continues, "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": tokenizer.unknown,
            "continuing_subword_prefix": tokenizer.continues,
            "max_input_chars_per_word": tokenizer.max_word,
            "vocab": tokenizer.vocabulary | tokenizer.special_tokens,
        },
    }


def read_wordpiece(saved: Mapping[str, Any], common: Mapping[str, Any]) -> WordPieceTokenizer:
    """The tokenizer of a parsed `tokenizer.json`; arguments and errors as in `bpe_file.read_bpe`."""
    model = saved["model"]
    if (saved["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer":
        raise UserError("it has a pre-tokenizer that is not BERT's, which fromzero can't represent with WordPiece")
    if (saved["decoder"] or {}).get("type") != "WordPiece":
        raise UserError("it has a decoder that is not WordPiece, which fromzero can't represent exactly")
    unknown, specials = model["unk_token"], dict(common["special_tokens"])
    if unknown in model["vocab"]:
        specials.setdefault(unknown, model["vocab"][unknown])
    return WordPieceTokenizer(
        {token: i for token, i in model["vocab"].items() if token not in specials},
        unknown,
        **{**common, "special_tokens": specials},
        continues=model["continuing_subword_prefix"],
        max_word=int(model["max_input_chars_per_word"]),
    )


def _decoded(token: str, continues: str) -> bytes:
    return token.removeprefix(continues).encode() if token.startswith(continues) else b" " + token.encode()
