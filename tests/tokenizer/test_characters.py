"""Bytes: any text, in exactly its UTF-8."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.tokenizer.characters import ByteTokenizer
from tests.tokenizer.fuzz import CURIOUS, assert_opens_alike, fuzzed


@given(st.text())
def test_ids_are_bytes_and_text_comes_back(text: str) -> None:
    tokenizer = ByteTokenizer({"<|endoftext|>": 256})
    assert tokenizer.encode(text) == list(text.encode())
    assert np.array_equal(tokenizer.encode_array(text), tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_other_libraries_agree(tmp_path: Path) -> None:
    special_tokens = {"<|endoftext|>": 256, "<|im_end|>": 257}
    tokenizer = ByteTokenizer(special_tokens, roles={"eos_token": "<|endoftext|>"}, prefix=["<|endoftext|>"])
    assert_opens_alike(tokenizer, tmp_path, CURIOUS + fuzzed())


def test_a_special_token_spelled_like_a_byte_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="spelled like"):
        ByteTokenizer({"a": 256}).save(tmp_path)
    with pytest.raises(UserError, match="same id 7"):
        ByteTokenizer({"<a>": 7})
