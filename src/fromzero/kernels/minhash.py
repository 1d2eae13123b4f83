"""MinHash signatures, and the clusters of what they bring together.

Broder 1997: the least of a set's hashes under a random order is the same for two sets with the probability of their
Jaccard similarity. Each of the orders here is (factor * low + high) mod 2**32 over the halves of a shingle's 64-bit
hash. One multiplication for each of 128 orders is sixteen at a time on a processor with wide registers. One order cut
into 128 ranges (one permutation hashing) would be one for all, but short texts leave ranges empty, and those that copy
their neighbours agree or differ together: pairs are then found more rarely or more often than the formula says.
"""

from typing import Any

import numpy as np

from fromzero.kernels.compiling import inlined, lean
from fromzero.kernels.shingles import cut_words, roll


@lean
def sign(data: Any, stops: Any, size: Any, table: Any, factors: Any, signatures: Any, words: Any, ends: Any) -> None:
    """Fill `signatures`, uint32 (texts, orders), from texts that lie one behind the other in `data` and end at `stops`.

    size: words in a shingle. words: uint64 (2, n), scratch room for more than `size` words, so that a long text takes
    no more than a short one. ends: (0, 2). A text without words gets the greatest numbers everywhere.
    """
    words, shingles, at = words[0], words[1], np.int64(0)
    for text in range(len(stops)):
        kept, start, stop = 0, at, stops[text]
        signatures[text] = np.uint32(0xFFFFFFFF)
        while at < stop:
            whole = at == start
            count, at = cut_words(data, at, stop, table, words, ends, kept)
            if whole or count >= size:
                _lower(shingles, roll(words, count, size, shingles), factors, signatures[text])
            kept = min(count, size - 1)
            for i in range(kept):  # a run of words may begin in one block and end in the next
                words[i] = words[count - kept + i]


@inlined
def _lower(shingles: Any, count: Any, factors: Any, signature: Any) -> None:
    for j in range(count):
        low, high = np.uint32(shingles[j]), np.uint32(shingles[j] >> np.uint64(32))
        for i in range(len(factors)):
            signature[i] = min(signature[i], np.uint32(factors[i] * low + high))


@lean
def unite(pairs: Any, parents: Any) -> None:
    """Join the clusters of each pair under their least number, which all of a cluster then have for their parent.

    Union-find with halved paths; at first each number is its own parent.
    """
    for i in range(len(pairs)):
        a, b = _root(parents, pairs[i, 0]), _root(parents, pairs[i, 1])
        parents[max(a, b)] = min(a, b)
    for i in range(len(parents)):
        parents[i] = parents[parents[i]]


@inlined
def _root(parents: Any, number: Any) -> Any:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number
