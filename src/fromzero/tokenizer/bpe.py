"""Byte-level byte-pair encoding: any text to token ids and back, without loss and without an unknown token."""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import UserError
from fromzero.tokenizer.base import Tokenizer, token_table
from fromzero.tokenizer.merge import merge, rank_merges
from fromzero.tokenizer.merge_table import MergeTable
from fromzero.tokenizer.normalize import Normalizer
from fromzero.tokenizer.patterns import resolve_pattern
from fromzero.tokenizer.splitter import Splitter
from fromzero.tokenizer.text import batches, check_unicode, utf8

T = TypeVar("T")
GROUP_BYTES = 1 << 20  # text that a thread takes at a time
# Kernels take half a second to start: before that, texts of so many characters with pre-tokens of so many are encoded
# plainly, as long as all of them had no more than that.
SHORT, PIECE, FEW = 10_000, 100, 40_000


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
        table = token_table(self.vocabulary.items(), specials, size)
        super().__init__(table, specials, roles, chat_template, prefix, suffix, normalizer=normalizer)
        self._byte_ids = [self.vocabulary.get(bytes([byte]), unknown) for byte in range(256)]
        self._ranks, self._results = rank_merges(self.merges, self.vocabulary)
        self.splitter = Splitter(self.patterns)
        self._characters = 0  # encoded without kernels

    @property
    def pattern(self) -> str:
        """The first pattern, mostly the only one."""
        return self.patterns[0]

    def encode_plainly(self, text: str) -> list[int]:
        """`encode_ordinary` without compiled code: the reference, and the way for vocabularies that lack bytes."""
        return self._merge_plainly(self.splitter.pieces(text))

    def _merge_plainly(self, pieces: Iterable[str]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            data = piece.encode()
            if self.whole and data in self.vocabulary:
                ids.append(self.vocabulary[data])
                continue
            symbols = [i for byte in data if (i := self._byte_ids[byte]) is not None and i >= 0]
            ids += merge(symbols, self._ranks, self._results)
        return ids

    def encode_array(self, text: str) -> NDArray[np.int32]:
        """`encode_ordinary` as an array, without a Python number for each id."""
        if not self._compilable:
            return super().encode_array(text)
        return self._table.encode([self._utf8(text)], self.splitter)[0]

    def encode_arrays(self, texts: Iterable[str], threads: int | None = None) -> list[NDArray[np.int32]]:
        """`encode_array` of each text, by as many threads as there are cores, or as given."""
        if not self._compilable:
            return super().encode_arrays(texts, threads)
        return self._in_threads(texts, lambda ids, ends: np.split(ids, ends[:-1]), threads)

    def _encode_many(self, texts: Iterable[str], threads: int | None) -> list[list[int]]:
        if not self._compilable:
            return super()._encode_many(texts, threads)

        def as_lists(ids: NDArray[np.int32], ends: NDArray[np.int64]) -> list[list[int]]:
            numbers = self._as_list(ids)
            return [numbers[start:end] for start, end in itertools.pairwise([0, *ends.tolist()])]

        return self._in_threads(texts, as_lists, threads)

    def encode_iterable(self, texts: Iterable[str]) -> Iterator[int]:
        """The ids of `encode_ordinary` of all the texts joined, one at a time.

        Memory stays constant where the pattern is compiled and nothing is normalised or looked for in the text, as long
        as pre-tokens end somewhere; else the texts are joined first.
        """
        if not self._compilable or self.normalizer or self.splitter.single is None:
            yield from super().encode_iterable(texts)
            return
        waiting: list[str] = []
        size, rest = 0, b""
        for text in texts:
            check_unicode(text)
            waiting.append(text)
            size += len(text)
            if size >= max(1 << 16, len(rest)):  # so that a pre-token without end is not read again for every piece
                ids, rest = self._table.encode_open(rest + "".join(waiting).encode(), self.splitter)
                yield from ids.tolist()
                waiting, size = [], 0
        yield from self._table.encode([rest + "".join(waiting).encode()], self.splitter)[0].tolist()

    def _encode(self, text: str) -> list[int]:
        if self.unknown is not None:
            return self.encode_plainly(text)
        if len(text) <= SHORT and self._characters < FEW and "_table" not in self.__dict__:
            pieces = list(self.splitter.pieces(text))
            if max(map(len, pieces), default=0) <= PIECE:
                self._characters += len(text)
                return self._merge_plainly(pieces)
        return self._as_list(self._table.encode([text.encode()], self.splitter)[0])

    @property
    def _compilable(self) -> bool:
        return self.unknown is None and len(self.added_tokens) == len(self.special_tokens)

    def _in_threads(
        self, texts: Iterable[str], take: Callable[[NDArray[np.int32], NDArray[np.int64]], list[T]], threads: int | None
    ) -> list[T]:
        """Encode groups of texts side by side; `take` makes its part of the ids of a group and where each text ends."""

        def encode(group: list[bytes]) -> list[T]:
            return take(*self._table.encode(group, self.splitter))

        self._table  # noqa: B018 (made before the threads need it)
        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            return [part for parts in pool.map(encode, batches(map(self._utf8, texts), GROUP_BYTES)) for part in parts]

    def _utf8(self, text: str) -> bytes:
        if self.normalizer:
            check_unicode(text)
        return utf8(self._normal(text))

    def _as_list(self, ids: NDArray[np.int32]) -> list[int]:
        """A list that shares one Python number for each id, which is faster than new ones."""
        return cast(list[int], self._numbers[ids].tolist())

    @functools.cached_property
    def _numbers(self) -> NDArray[np.object_]:
        return np.arange(self.vocab_size).astype(object)

    @functools.cached_property
    def _table(self) -> MergeTable:
        pairs = np.array(self.merges, np.int32).reshape(-1, 2)
        tokens = [b""] * self.vocab_size
        for token, i in self.vocabulary.items():
            tokens[i] = token
        return MergeTable(
            np.array(self._byte_ids, np.int32), pairs, np.array(self._results, np.int32), tokens, self.whole
        )


def byte_vocabulary(merges: Sequence[tuple[int, int]]) -> dict[bytes, int]:
    """The vocabulary in which ids 0 to 255 are the bytes in order and merge i makes id 256 + i."""
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return {token: i for i, token in enumerate(tokens)}
