"""Byte-level BPE in files: the parts of `tokenizer.json` that are this kind's own, and GPT-2's two files.

JSON can't hold raw bytes, so every byte is spelled as a printable character, in the assignment that GPT-2 chose.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import regex

from fromzero.errors import UserError
from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.foreign import read_json, read_text, reading
from fromzero.tokenizer.patterns import GPT2, isolating

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2_CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast")


def write_bpe(tokenizer: BPETokenizer) -> dict[str, Any]:
    """The pre-tokenizer, decoder and model of `tokenizer.json`."""
    vocabulary = {spell(token): i for token, i in tokenizer.vocabulary.items()}
    added = {text: token.id for text, token in tokenizer.added_tokens.items()}
    if clash := vocabulary.keys() & added.keys():
        raise UserError(f"the special token {min(clash)!r} is spelled like an ordinary one; choose another text for it")
    spelled: dict[int | None, str] = {i: token for token, i in (vocabulary | added).items()}
    steps = [*map(isolating, tokenizer.patterns), BYTE_LEVEL]
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "unk_token": spelled.get(tokenizer.unknown),
            "ignore_merges": tokenizer.whole,
            "vocab": vocabulary | added,
            "merges": [[spelled[left], spelled[right]] for left, right in tokenizer.merges],
        },
    }


def read_bpe(saved: Mapping[str, Any], common: Mapping[str, Any]) -> BPETokenizer:
    """The tokenizer of a parsed `tokenizer.json`; common: what all kinds share, as arguments of `Tokenizer`.

    Raises UserError for what can't be represented exactly.
    """
    model = saved["model"]
    check_model(model)
    if (saved.get("decoder") or {}).get("type") != "ByteLevel":
        raise UserError("it has a decoder that is not ByteLevel, which fromzero can't represent exactly")
    vocabulary = {token: i for token, i in model["vocab"].items() if token not in common["special_tokens"]}
    return from_spelled(
        vocabulary,
        model["merges"],
        _read_patterns(saved["pre_tokenizer"]),
        unknown=_read_unknown(model),
        whole=bool(model.get("ignore_merges")),
        **common,
    )


def read_gpt2(vocabulary_file: Path, merges_file: Path, config: Mapping[str, Any], **common: Any) -> BPETokenizer:
    """The tokenizer of GPT-2's two files: tokens and ids in JSON, and merges line by line.

    What neither is a byte nor comes of a merge is a special token. config: a parsed `tokenizer_config.json`, or empty.
    """
    if config.get("tokenizer_class") not in _GPT2_CLASSES:
        raise UserError(
            f"{vocabulary_file} is of the class {config['tokenizer_class']}, whose pattern the file lacks; "
            "use its tokenizer.json"
        )
    spelled = read_json(vocabulary_file)
    with reading(merges_file, "a list of merges"):
        lines = [line for line in read_text(merges_file).split("\n") if line and not line.startswith("#version")]
        merges = list(map(split_merge, lines))
    with reading(vocabulary_file, "a vocabulary"):
        ordinary = {*bytes_of(), *map("".join, merges)}
        special_tokens = {token: i for token, i in spelled.items() if token not in ordinary}
        if not common.get("roles") and len(special_tokens) == 1:
            common["roles"] = dict.fromkeys(("bos_token", "eos_token", "unk_token"), next(iter(special_tokens)))
        vocabulary = {token: i for token, i in spelled.items() if token in ordinary}
        return from_spelled(vocabulary, merges, [GPT2], special_tokens=special_tokens, **common)


def from_spelled(
    spelled: Mapping[str, int], merges: Iterable[str | Sequence[str]], patterns: Sequence[str], **common: Any
) -> BPETokenizer:
    """The tokenizer of spelled tokens and merges, each merge a pair, or two tokens with a blank between them.

    common: further arguments of `BPETokenizer`. Raises UserError for a merge of what is not in the vocabulary.
    """
    ids = read_merges(merges, spelled)
    vocabulary = {unspell(token): i for token, i in spelled.items()}
    size = max(itertools.chain(spelled.values(), common["special_tokens"].values())) + 1
    return BPETokenizer(vocabulary, ids, patterns, size=size, **common)


def _read_unknown(model: Mapping[str, Any]) -> int | None:
    """The id for bytes that the vocabulary lacks; None if it lacks none."""
    if bytes_of().keys() <= model["vocab"].keys():
        return None
    unknown = model.get("unk_token")
    if unknown and model.get("fuse_unk"):
        raise UserError("it lacks some bytes and has fuse_unk on, which fromzero can't represent exactly")
    return int(model["vocab"][unknown]) if unknown else -1


def check_model(model: Mapping[str, Any]) -> None:
    """Raise UserError for settings of a BPE model that no class here has."""
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UserError(f"it has the model setting {name}={model[name]!r}, which fromzero can't represent exactly")


def read_merges(merges: Iterable[str | Sequence[str]], vocabulary: Mapping[str, int]) -> list[tuple[int, int]]:
    """Merges as pairs of ids. Raises UserError for one of what is not in the vocabulary."""
    try:
        return [(vocabulary[left], vocabulary[right]) for left, right in map(split_merge, merges)]
    except KeyError as error:
        raise UserError(f"it has a merge with {error}, which is not in its vocabulary; save it again") from None


def split_merge(merge: str | Sequence[str]) -> tuple[str, str]:
    """The two halves of a merge."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


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
    """Character -> the byte that it spells."""
    return {spell(bytes([byte])): byte for byte in range(256)}


def unspell(token: str) -> bytes:
    """The bytes behind a token of `tokenizer.json`. Raises UserError for a character that stands for none."""
    table = bytes_of()
    try:
        return bytes([table[character] for character in token])
    except KeyError:
        raise UserError(
            f"it has the token {token!r}, which is not spelled in bytes; fromzero can't represent it"
        ) from None


def _read_patterns(pre_tokenizer: Mapping[str, Any]) -> list[str]:
    """The patterns that cut text one after the other, before `ByteLevel` makes bytes of it."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    *splits, last = steps
    if last["type"] != "ByteLevel" or last.get("add_prefix_space", True):
        raise UserError("it has a pre-tokenizer that does not end in ByteLevel without a prefix space")
    patterns = list(map(_read_split, splits))
    if last.get("use_regex", True):  # GPT-2's pattern is built in
        patterns.append(GPT2)
    if not patterns:
        raise UserError("it does not cut text before it merges, which fromzero can't represent with bytes")
    return patterns


def _read_split(step: Mapping[str, Any]) -> str:
    if step["type"] == "Digits":
        return r"\p{N}" if step["individual_digits"] else r"\p{N}+"
    if step["type"] != "Split":
        raise UserError(f"it has a {step['type']} pre-tokenizer, which fromzero can't represent exactly")
    if step["behavior"] != "Isolated" or step.get("invert"):
        raise UserError("it splits by something else than an isolating expression, which fromzero can't represent")
    ((kind, pattern),) = step["pattern"].items()
    return str(pattern) if kind == "Regex" else regex.escape(pattern, special_only=True)
