"""The merges of a tokenizer as the kernels want them, and encoding with them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import UserError
from fromzero.tokenizer.splitter import Splitter, as_array, no_progress


class MergeTable:
    """byte_ids: int32 (256,). pairs: int32 (merges, 2), in the order of ranks. results: int32 (merges,).

    tokens: by id, the bytes of all tokens that merging may make; without them all is merged. whole: a pre-token that is
    one of them becomes it without merging. Raises UserError for ids of 2**20 and more, and for more than 2**24 - 2
    merges.
    """

    def __init__(
        self,
        byte_ids: NDArray[np.int32],
        pairs: NDArray[np.int32],
        results: NDArray[np.int32],
        tokens: Sequence[bytes] = (),
        whole: bool = False,
    ) -> None:
        from fromzero.kernels.compiling import first_use
        from fromzero.kernels.match import MAX_TOKEN, UNMADE, derive
        from fromzero.kernels.merge import Whole, merge_table
        from fromzero.kernels.merge_pairs import MAX_IDS, MAX_RANK
        from fromzero.kernels.tree import Tree
        from fromzero.tokenizer.pretokens import Pretokens

        if len(pairs) >= MAX_RANK or max(pairs.max(initial=0), results.max(initial=0), byte_ids.max()) >= MAX_IDS:
            raise UserError(f"a byte-level BPE has ids below {MAX_IDS} and fewer than {MAX_RANK} merges here")
        self._caches: list[Any] = []
        lefts, rights = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
        sizes = np.array([len(token) if len(token) <= MAX_TOKEN else 0 for token in tokens], np.int64)
        letters = np.frombuffer(b"".join(token for token in tokens if len(token) <= MAX_TOKEN) + bytes(1), np.uint8)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        with first_use("the tokenizer"):
            self._merges = merge_table(byte_ids, lefts, rights, results)
            making, tree = derive(letters, starts, byte_ids, self._merges.pairs, results, lefts, rights)
        if any(len(token) > MAX_TOKEN for token in tokens):
            tree = Tree(*(array[:0] for array in tree))
        self._matcher = (making, tree)
        unmade = making.times == UNMADE
        exceptions = Pretokens({token: i for i, token in enumerate(tokens) if whole and token and unmade[i]})
        self._whole = Whole(exceptions.letters, exceptions.entries, exceptions.slots)

    def encode(self, texts: Sequence[bytes], splitter: Splitter) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of some texts (valid UTF-8), one after the other, and where those of each end."""
        from fromzero.kernels.compiling import first_use
        from fromzero.kernels.merge import encode_documents

        automaton = splitter.single
        if automaton is None:
            parts = [self._encode_cut(text, splitter.cuts(text)) for text in texts]
            return np.concatenate([np.empty(0, np.int32), *parts]), np.cumsum([len(part) for part in parts])
        data, counts = as_array(b"".join(texts)), np.zeros(len(texts), np.int64)
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        out, cache = np.empty(len(data), np.int32), self._take_cache()
        with first_use("the tokenizer"):
            written = encode_documents(
                data, ends, automaton.classes, automaton.table, automaton.width, self._merges, self._matcher,
                self._whole, cache, out, counts,
            )  # fmt: skip
        self._caches.append(cache)
        if written < 0:
            raise no_progress(splitter.patterns[0])
        return out[:written].copy(), np.cumsum(counts)

    def encode_open(self, data: bytes, splitter: Splitter) -> tuple[NDArray[np.int32], bytes]:
        """The ids of a text that goes on, as far as what comes can't change them; and the rest of it."""
        from fromzero.kernels.scan import scan

        automaton, cuts = splitter.single, np.empty(len(data) + 2, np.int64)
        assert automaton is not None
        count, resume = scan(
            as_array(data), 0, len(data), False, automaton.classes, automaton.table, automaton.width, cuts
        )
        if resume < 0:
            raise no_progress(splitter.patterns[0])
        return self._encode_cut(data[:resume], cuts[:count]), data[resume:]

    def _encode_cut(self, data: bytes, cuts: NDArray[np.int64]) -> NDArray[np.int32]:
        """The ids of a text that was cut already."""
        from fromzero.kernels.merge import encode_pieces
        from fromzero.kernels.words import PADDING

        out, cache = np.empty(len(data) + PADDING, np.int32), self._take_cache()
        written = encode_pieces(as_array(data), 0, cuts, self._merges, self._matcher, self._whole, cache, out, 0)
        self._caches.append(cache)
        return out[:written].copy()

    def _take_cache(self) -> Any:
        """A cache that no other thread uses."""
        from fromzero.kernels.merge import new_cache

        try:
            return self._caches.pop()
        except IndexError:
            return new_cache()
