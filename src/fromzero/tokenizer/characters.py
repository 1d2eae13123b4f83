"""Bytes as tokens: the smallest vocabulary, in which any text can be written (ByT5, Xue et al. 2022)."""

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from fromzero.errors import UserError
from fromzero.tokenizer.base import Common, Tokenizer, token_table
from fromzero.tokenizer.bpe_file import BYTE_LEVEL, bytes_of, read_bpe
from fromzero.tokenizer.text import check_unicode


class ByteTokenizer(Tokenizer):
    """Ids 0 to 255 are the bytes of a text's UTF-8, and special tokens come after them. Arguments as in `Tokenizer`."""

    kind = "byte"

    def __init__(self, special_tokens: Mapping[str, int] | None = None, **common: Unpack[Common]) -> None:
        specials = dict(special_tokens or {})
        table = token_table(((bytes([i]), i) for i in range(256)), specials)
        super().__init__(table, specials, **common)

    def _encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_array(self, text: str) -> NDArray[np.int32]:
        """`encode_ordinary` as an array."""
        if len(self.added_tokens) > len(self.special_tokens):
            return super().encode_array(text)
        check_unicode(text)
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def write_bytes(tokenizer: ByteTokenizer) -> dict[str, Any]:
    """The pre-tokenizer, decoder and model of `tokenizer.json`: a byte-level BPE without merges."""
    vocabulary = bytes_of()
    if clash := vocabulary.keys() & tokenizer.special_tokens.keys():
        raise UserError(f"the special token {min(clash)!r} is spelled like an ordinary one; choose another text for it")
    model = {"type": "BPE", "vocab": vocabulary | tokenizer.special_tokens, "merges": []}
    return {"pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL, "model": model}


def read_bytes(saved: Mapping[str, Any], common: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a parsed `tokenizer.json` with a BPE model, of bytes if `write_bytes` made it, as `read_bpe`."""
    model = saved["model"]
    expected: Any = (BYTE_LEVEL, [], bytes_of() | common["special_tokens"], None)
    if (saved["pre_tokenizer"], model["merges"], model["vocab"], saved.get("normalizer")) == expected:
        return ByteTokenizer(**common)
    return read_bpe(saved, common)
