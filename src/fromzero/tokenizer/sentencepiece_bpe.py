"""Byte-pair encoding over characters, as SentencePiece has it: Llama 2, Mistral and Gemma.

Blanks are written as U+2581, and merges may cross them. A character that the vocabulary lacks becomes its UTF-8 bytes,
each a token of its own such as <0xE4>, or else the unknown token.
"""

from collections.abc import Mapping, Sequence
from typing import Unpack

import regex

from fromzero.errors import UserError
from fromzero.tokenizer.base import Common, token_table
from fromzero.tokenizer.merge import merge, rank_merges
from fromzero.tokenizer.unigram import SPACE, Metaspace, PieceTokenizer, byte_ids, bytes_of

CACHED_LETTERS, CACHE_SIZE = 64, 1 << 17


class SentencePieceBPETokenizer(PieceTokenizer):
    """Pieces and the merges that lead to them.

    vocabulary: piece -> id. merges: pairs of ids, first learned first; the joined pieces of each are in the vocabulary.
    unk: what stands for characters without a piece; None leaves them out. metaspace: None when the normalizer marks
    blanks. byte_fallback: characters without a piece become bytes. fuse_unk: neighbours that are unknown become one.
    whole: a text that is a piece as a whole becomes it without merging. The rest as in `Tokenizer`.
    Raises UserError when these don't fit each other.
    """

    kind = "spbpe"

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[int, int]],
        unk: str | None,
        special_tokens: Mapping[str, int] | None = None,
        *,
        metaspace: Metaspace | None = None,
        byte_fallback: bool = False,
        fuse_unk: bool = True,
        whole: bool = False,
        **common: Unpack[Common],
    ) -> None:
        self.vocabulary, self.merges, self.unk = dict(vocabulary), list(merges), unk
        self.metaspace, self.whole = metaspace, whole
        self.byte_fallback, self.fuse_unk = byte_fallback, fuse_unk
        specials = dict(special_tokens or {})
        tokens = [(bytes_of(piece, byte_fallback), i) for piece, i in self.vocabulary.items() if piece not in specials]
        ids = self.vocabulary | specials
        table = token_table(tokens, specials, size=max(ids.values(), default=-1) + 1)
        super().__init__(table, specials, **common)
        if unk is not None and unk not in ids:
            raise UserError(f"the unknown token {unk!r} is not in the vocabulary")
        self._unk = None if unk is None else ids[unk]
        self._byte_ids = byte_ids(ids) if byte_fallback else []
        self._ranks, self._results = rank_merges(self.merges, self.vocabulary)
        self._words = regex.compile(self._cutting())
        self._cache: dict[str, list[int]] = {}

    def _encode_marked(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in self._words.findall(text):
            ids += self._cache.get(word) or self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> list[int]:
        if self.whole and word in self.vocabulary:
            return [self.vocabulary[word]]
        ids = merge(self._symbols(word), self._ranks, self._results)
        if len(word) <= CACHED_LETTERS:
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[word] = ids
        return ids

    def _symbols(self, word: str) -> list[int]:
        """The ids of the characters."""
        ids: list[int] = []
        for character in word:
            i = self.vocabulary.get(character)
            if i is not None:
                ids.append(i)
            elif self.byte_fallback:
                ids += [self._byte_ids[byte] for byte in character.encode()]
            elif self._unk is not None and not (self.fuse_unk and ids and ids[-1] == self._unk):
                ids.append(self._unk)
        return ids

    def _cutting(self) -> str:
        """What cuts a text into stretches over whose ends no merge can reach, because no piece goes on with a blank."""
        if self.metaspace and self.metaspace.split:
            return rf"{SPACE}?[^{SPACE}]+|{SPACE}"
        goes_on = any(SPACE in piece.lstrip(SPACE) for piece in self.vocabulary)
        if self.whole or goes_on or SPACE not in self.vocabulary:
            return r"[\s\S]+"
        return rf"{SPACE}*[^{SPACE}]+|{SPACE}+"
