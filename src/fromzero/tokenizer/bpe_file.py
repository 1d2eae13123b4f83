"""Byte-level BPE in the Hugging Face format: the parts of `tokenizer.json` that are this kind's own.

JSON can't hold raw bytes, so every byte is spelled as a printable character, in the assignment that GPT-2 chose.
"""

import functools
from collections.abc import Mapping
from typing import Any

from fromzero.errors import UserError
from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.patterns import GPT2


def write_bpe(tokenizer: BPETokenizer) -> dict[str, Any]:
    """The pre-tokenizer, decoder and model of `tokenizer.json`."""
    vocabulary = {spell(token): i for token, i in tokenizer.vocabulary.items()}
    if clash := vocabulary.keys() & tokenizer.special_tokens.keys():
        raise UserError(f"the special token {min(clash)!r} is spelled like an ordinary one; choose another text for it")
    spelled = [spell(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    pattern = {"type": "Split", "pattern": {"Regex": tokenizer.pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pattern, byte_level]},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary | tokenizer.special_tokens,
            "merges": [[spelled[left], spelled[right]] for left, right in tokenizer.merges],
        },
    }


def read_bpe(saved: Mapping[str, Any], common: Mapping[str, Any]) -> BPETokenizer:
    """The tokenizer of a parsed `tokenizer.json`; common: what all kinds share, as arguments of `Tokenizer`.

    Raises UserError for what can't be represented exactly.
    """
    model = saved["model"]
    for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(name):
            raise UserError(f"it has the model setting {name}={model[name]!r}, which fromzero can't represent exactly")
    if saved.get("normalizer"):
        raise UserError("it has a normalizer, which fromzero can't represent exactly with a byte-level BPE")
    if (saved.get("decoder") or {}).get("type") != "ByteLevel":
        raise UserError("it has a decoder that is not ByteLevel, which fromzero can't represent exactly")
    vocabulary = {unspell(t): i for t, i in model["vocab"].items() if t not in common["special_tokens"]}
    ids = {spell(token): i for token, i in vocabulary.items()}
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    if unknown := [half for merge in merges for half in merge if half not in ids]:
        raise UserError(f"it has a merge with {unknown[0]!r}, which is not in its vocabulary; save it again")
    pairs = [(ids[left], ids[right]) for left, right in merges]
    return BPETokenizer(vocabulary, pairs, _read_pattern(saved["pre_tokenizer"]), **common)


def spell(token: bytes) -> str:
    """Bytes as the printable characters that stand for them in `tokenizer.json`."""
    return token.decode("latin-1").translate(_spelling())


@functools.cache
def _spelling() -> dict[int, str]:
    """Byte -> character: itself where it is printable in Latin-1, else the next one from U+0100 on (GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@functools.cache
def bytes_of() -> dict[str, int]:
    return {character: byte for byte, character in _spelling().items()}


def unspell(token: str) -> bytes:
    """The bytes behind a token of `tokenizer.json`. Raises UserError for a character that stands for none."""
    table = bytes_of()
    if not all(character in table for character in token):
        raise UserError(f"it has the token {token!r}, which is not spelled in bytes; fromzero can't represent it")
    return bytes(table[character] for character in token)


def _read_pattern(pre_tokenizer: Mapping[str, Any]) -> str:
    """The pattern of `Split` followed by `ByteLevel`, or GPT-2's, which a lone `ByteLevel` has built in."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    *splits, last = steps
    if last["type"] != "ByteLevel" or last.get("add_prefix_space", True):
        raise UserError("it has a pre-tokenizer that does not end in ByteLevel without a prefix space")
    if not splits and last.get("use_regex", True):
        return GPT2
    if len(splits) != 1 or last.get("use_regex", True) or splits[0]["type"] != "Split":
        raise UserError("it has pre-tokenizers other than one Split and ByteLevel")
    split = splits[0]
    if split["behavior"] != "Isolated" or split.get("invert") or "Regex" not in split["pattern"]:
        raise UserError("it splits by something else than an isolating regular expression")
    return str(split["pattern"]["Regex"])
