"""What a model has to beat: bits per byte of a unigram model and of general compressors, on the same held-out text.

A compressor may first see training text, as the model did: its figure is what the held-out text adds to the size.
"""

import gzip
import lzma
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import missing_extra

Ids = Sequence[int] | NDArray[Any]
# How far back each is made to find repeats: more training text than this is not shown to it.
ZSTD_WINDOW_BYTES = 8 << 20  # of level 19
PRIMING_BYTES = 32 << 20  # of xz, whose dictionary is made as large as what it is shown


def unigram_bits_per_byte(train_counts: np.ndarray, held_out: Iterable[Ids], held_out_bytes: int) -> float:
    """Bits per byte of token frequencies: p(id) = (count + 1) / (total + V), counted on training text."""
    log_p = np.log2((train_counts + 1) / (train_counts.sum() + len(train_counts)))
    return float(-sum(log_p[np.asarray(ids)].sum() for ids in held_out if len(ids)) / held_out_bytes)


def gzip_bits_per_byte(held_out: bytes) -> float:
    """gzip at its best level. Its window is 32 KiB, so training text would not help it."""
    return 8 * len(gzip.compress(held_out, 9, mtime=0)) / len(held_out)


def zstd_bits_per_byte(train: bytes, held_out: bytes, level: int = 19) -> float:
    """zstd after as much training text as its window holds: what the held-out text adds to the compressed size."""
    try:
        import pyarrow
    except ImportError:
        raise missing_extra("pyarrow", "corpus") from None
    codec = pyarrow.Codec("zstd", compression_level=level)
    prime = train[-max(0, ZSTD_WINDOW_BYTES - len(held_out)) :] if len(held_out) < ZSTD_WINDOW_BYTES else b""
    extra = len(codec.compress(prime + held_out, asbytes=True)) - len(codec.compress(prime, asbytes=True))
    return 8 * extra / len(held_out)


def xz_bits_per_byte(train: bytes, held_out: bytes) -> float:
    """xz in the same way, with a dictionary that spans all of it."""
    prime = train[-PRIMING_BYTES:]
    size = 1 << max(16, math.ceil(math.log2(len(prime) + len(held_out) + 1)))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": size}]

    def compressed(data: bytes) -> int:
        return len(lzma.compress(data, lzma.FORMAT_RAW, filters=filters))

    return 8 * (compressed(prime + held_out) - compressed(prime)) / len(held_out)
