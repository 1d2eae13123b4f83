"""Words as tokens: what language models had before subwords (Bengio et al. 2003), and what they still teach with.

A text is cut by a regular expression whose pieces join to it again. A piece that the vocabulary does not have becomes
the unknown token, so decoding gives known words back exactly and says where others were.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from fromzero.errors import UserError
from fromzero.tokenizer.base import Common, Tokenizer, token_table
from fromzero.tokenizer.patterns import compile_pattern, isolating, resolve_pattern, split

UNKNOWN = "<|unk|>"
# A Chinese character, a word of any other script, a run of line ends, a run of blanks, or anything else on its own.
WORDS = r"\p{Han}|(?:(?!\p{Han})[\p{L}\p{M}\p{N}_])+|[\r\n]+| +|[\s\S]"
EACH_CHARACTER = r"[\s\S]"


class WordTokenizer(Tokenizer):
    """A vocabulary of words, the pattern that finds them, and a special token for those it lacks.

    vocabulary: word -> id. pattern: a name in `patterns.PATTERNS`, or an expression of the `regex` module. unknown: a
    special token, or None: a word that is not in the vocabulary raises UserError then. The rest as in `Tokenizer`.

    Raises UserError when these don't fit each other.
    """

    kind = "word"

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        pattern: str = WORDS,
        unknown: str | None = UNKNOWN,
        special_tokens: Mapping[str, int] | None = None,
        **common: Unpack[Common],
    ) -> None:
        specials = dict(special_tokens or {})
        check_unknown(unknown, specials)
        self.vocabulary, self.unknown = dict(vocabulary), unknown
        self.pattern = resolve_pattern(pattern)
        self._compiled = compile_pattern(self.pattern)
        self._unknown_id = None if unknown is None else specials[unknown]
        table = token_table(((text.encode(), i) for text, i in vocabulary.items()), specials)
        super().__init__(table, specials, **common)

    def _encode(self, text: str) -> list[int]:
        pieces = self._cut_words(text)
        try:
            if self._unknown_id is None:
                return [self.vocabulary[piece] for piece in pieces]
            return [self.vocabulary.get(piece, self._unknown_id) for piece in pieces]
        except KeyError as error:
            raise UserError(
                f"the vocabulary lacks {error.args[0]!r:.50}, and the tokenizer has no unknown token; train it on text "
                f"that has it, or with {UNKNOWN} among its special tokens"
            ) from None

    def _cut_words(self, text: str) -> Sequence[str]:
        return split(self._compiled, text)


class CharacterTokenizer(WordTokenizer):
    """Each character is a word. The arguments of `WordTokenizer` but for the pattern."""

    kind = "char"

    def __init__(
        self, vocabulary: Mapping[str, int], unknown: str | None = UNKNOWN, *rest: Any, **settings: Any
    ) -> None:
        if long := next((text for text in vocabulary if len(text) != 1), None):
            raise UserError(f"the vocabulary has {long!r:.50}, which is not one character")
        super().__init__(vocabulary, EACH_CHARACTER, unknown, *rest, **settings)

    def _cut_words(self, text: str) -> Sequence[str]:
        return text


def most_frequent(counts: Mapping[str, int], most: int) -> list[str]:
    """At most that many texts, the most frequent first; of equally frequent ones the least first."""
    return sorted(counts, key=lambda text: (-counts[text], text))[:most]


def check_unknown(unknown: str | None, special_tokens: Iterable[str]) -> None:
    """Raises UserError when the unknown token is not among the special tokens."""
    if unknown is not None and unknown not in special_tokens:
        raise UserError(f"the unknown token {unknown!r} is not among the special tokens; add it")


def write_word(tokenizer: WordTokenizer) -> dict[str, Any]:
    """The pre-tokenizer, decoder and model of `tokenizer.json`."""
    if clash := tokenizer.vocabulary.keys() & tokenizer.special_tokens.keys():
        raise UserError(f"the special token {min(clash)!r} is a word of the vocabulary as well; choose another text")
    ids = tokenizer.vocabulary | tokenizer.special_tokens
    return {
        "pre_tokenizer": isolating(tokenizer.pattern),
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": tokenizer.unknown or ""},
    }


def read_word(saved: Mapping[str, Any], common: Mapping[str, Any]) -> WordTokenizer:
    """The tokenizer of a parsed `tokenizer.json`; arguments and errors as in `bpe_file.read_bpe`."""
    pattern: Any = ((saved["pre_tokenizer"] or {}).get("pattern") or {}).get("Regex")
    if saved["pre_tokenizer"] != isolating(pattern):
        raise UserError("it cuts words by something else than one isolating regular expression")
    if (saved["decoder"] or {}).get("type") != "Fuse":
        raise UserError("it has a decoder that is not Fuse, so its words don't join to the text")
    model = saved["model"]
    vocabulary = {text: i for text, i in model["vocab"].items() if text not in common["special_tokens"]}
    unknown = model["unk_token"] if model["unk_token"] in model["vocab"] else None
    if pattern == EACH_CHARACTER:
        return CharacterTokenizer(vocabulary, unknown, **common)
    return WordTokenizer(vocabulary, pattern, unknown, **common)
