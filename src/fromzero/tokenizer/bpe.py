"""Byte-level byte-pair encoding: any text to token ids and back, without loss and without an unknown token."""

from collections.abc import Mapping, Sequence

from fromzero.errors import UserError
from fromzero.tokenizer.base import Tokenizer, token_table
from fromzero.tokenizer.merge import merge
from fromzero.tokenizer.normalize import Normalizer
from fromzero.tokenizer.patterns import compile_pattern, resolve_pattern, split

CACHED_LETTERS = 64  # longer pre-tokens hardly ever come back
CACHE_SIZE = 1 << 17  # pre-tokens; then it is emptied, so that memory stays bounded


class BPETokenizer(Tokenizer):
    """A vocabulary of byte strings, the merges that lead to them in order, a pre-token pattern and special tokens.

    vocabulary: byte string -> id. merges: pairs of ids, first learned first; the joined bytes of each are in the
    vocabulary. pattern: a name in `patterns.PATTERNS`, or an expression of the `regex` module; of several, each cuts
    the pieces of the one before. special_tokens: text -> id. whole: a pre-token that is a token becomes it without
    merging. size: number of ids, where some have no token. unknown: the id for a byte that the vocabulary lacks, or -1
    to leave it out as `tokenizers` does; None refuses such a vocabulary. The rest as in `Tokenizer`.

    Raises UserError when these don't fit each other.
    """

    kind = "bpe"

    def __init__(
        self,
        vocabulary: Mapping[bytes, int],
        merges: Sequence[tuple[int, int]],
        pattern: str | Sequence[str] = "fromzero",
        special_tokens: Mapping[str, int] | None = None,
        roles: Mapping[str, str] | None = None,
        chat_template: str | None = None,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        *,
        normalizer: Normalizer | None = None,
        whole: bool = False,
        size: int | None = None,
        unknown: int | None = None,
    ) -> None:
        self.vocabulary = dict(vocabulary)
        self.merges = list(merges)
        self.patterns = tuple(map(resolve_pattern, [pattern] if isinstance(pattern, str) else pattern))
        self.whole, self.unknown = whole, unknown
        missing = [byte for byte in range(256) if bytes([byte]) not in self.vocabulary]
        if missing and unknown is None:
            raise UserError(f"the vocabulary lacks the byte 0x{missing[0]:02X}; a byte-level one has all 256")
        specials = dict(special_tokens or {})
        table = token_table(self.vocabulary.items(), ((text.encode(), i) for text, i in specials.items()), size=size)
        super().__init__(table, specials, roles, chat_template, prefix, suffix, normalizer=normalizer)
        self._byte_ids = [self.vocabulary.get(bytes([byte]), unknown) for byte in range(256)]
        self._ranks, self._results = _ranks(self.merges, self.vocabulary, self.tokens)
        self._compiled = [compile_pattern(expression) for expression in self.patterns]
        self._cache: dict[str, list[int]] = {}

    @property
    def pattern(self) -> str:
        """The first pattern, mostly the only one."""
        return self.patterns[0]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        cached = self._cache.get
        pieces = [text]
        for compiled in self._compiled:
            pieces = [part for piece in pieces for part in split(compiled, piece)]
        for piece in pieces:
            ids += cached(piece) or self._encode_piece(piece)
        return ids

    def _encode_piece(self, piece: str) -> list[int]:
        data = piece.encode()
        if self.whole and data in self.vocabulary:
            return [self.vocabulary[data]]
        symbols = [i for byte in data if (i := self._byte_ids[byte]) is not None and i >= 0]
        ids = merge(symbols, self._ranks, self._results)
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
