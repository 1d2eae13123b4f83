"""Byte-level byte-pair encoding: any text to token ids and back, without loss and without an unknown token."""

from collections.abc import Mapping, Sequence

from fromzero.errors import UserError
from fromzero.tokenizer.base import Tokenizer, token_table
from fromzero.tokenizer.merge import merge
from fromzero.tokenizer.patterns import compile_pattern, resolve_pattern, split

CACHED_LETTERS = 64  # longer pre-tokens hardly ever come back
CACHE_SIZE = 1 << 17  # pre-tokens; then it is emptied, so that memory stays bounded


class BPETokenizer(Tokenizer):
    """A vocabulary of byte strings, the merges that lead to them in order, a pre-token pattern and special tokens.

    vocabulary: byte string -> id, with all 256 single bytes in it. merges: pairs of ids, first learned first; the
    joined bytes of each are in the vocabulary. pattern: a name in `patterns.PATTERNS`, or an expression of the `regex`
    module. special_tokens: text -> id. The rest as in `Tokenizer`.

    Raises UserError when these don't fit each other.
    """

    kind = "bpe"

    def __init__(
        self,
        vocabulary: Mapping[bytes, int],
        merges: Sequence[tuple[int, int]],
        pattern: str = "fromzero",
        special_tokens: Mapping[str, int] | None = None,
        roles: Mapping[str, str] | None = None,
        chat_template: str | None = None,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
    ) -> None:
        self.vocabulary = dict(vocabulary)
        self.merges = list(merges)
        self.pattern = resolve_pattern(pattern)
        if missing := [byte for byte in range(256) if bytes([byte]) not in self.vocabulary]:
            raise UserError(f"the vocabulary lacks the byte 0x{missing[0]:02X}; a byte-level one has all 256")
        specials = dict(special_tokens or {})
        table = token_table(self.vocabulary.items(), ((text.encode(), i) for text, i in specials.items()))
        super().__init__(table, specials, roles, chat_template, prefix, suffix)
        self._byte_ids = [self.vocabulary[bytes([byte])] for byte in range(256)]
        self._ranks, self._results = _ranks(self.merges, self.vocabulary, self.tokens)
        self._compiled = compile_pattern(self.pattern)
        self._cache: dict[str, list[int]] = {}

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


def byte_vocabulary(merges: Sequence[tuple[int, int]]) -> dict[bytes, int]:
    """The vocabulary in which ids 0 to 255 are the bytes in order and merge i makes id 256 + i."""
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return {token: i for i, token in enumerate(tokens)}


def _ranks(
    merges: Sequence[tuple[int, int]], vocabulary: Mapping[bytes, int], table: Sequence[bytes | None]
) -> tuple[dict[tuple[int, int], int], list[int]]:
    """Pair -> rank and rank -> the id that replaces it."""
    ranks: dict[tuple[int, int], int] = {}
    results = []
    for rank, (left, right) in enumerate(merges):
        if not (0 <= left < len(table) and 0 <= right < len(table)):
            raise UserError(f"merge {rank} joins the ids {left} and {right}, of which one does not exist")
        joined = (table[left] or b"") + (table[right] or b"")
        if joined not in vocabulary:
            raise UserError(f"merge {rank} makes {joined!r}, which is not in the vocabulary")
        if ranks.setdefault((left, right), rank) != rank:
            raise UserError(f"merge {rank} of {table[left]!r} and {table[right]!r} was there before")
        results.append(vocabulary[joined])
    return ranks, results
