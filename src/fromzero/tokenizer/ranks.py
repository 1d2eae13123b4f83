"""Rank files, as tiktoken has them: on each line a token in base64, and its id.

The file has no merges: whenever the bytes of two neighbours joined are a token, they may be merged, the lowest id
first. But only one pair ever comes to be a given token: when a stretch of text becomes that token, no merge has crossed
its ends before, so it went through the same states as the token's bytes alone, of which the last but one is a pair. So
one merge for each token gives the same ids, and `last_pairs` finds it.

The file also lacks the pattern and the special tokens. `PUBLISHED` has them for the published files.
"""

import base64
import binascii
import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from fromzero.errors import UserError, nearest
from fromzero.files import write_text
from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.foreign import MAX_IDS, read_file, reading
from fromzero.tokenizer.last_pairs import last_pairs

END_OF_TEXT = "<|endoftext|>"


_FILL_IN = {"<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260}
PUBLISHED: dict[str, tuple[str, dict[str, int]]] = {  # pattern and special tokens
    **dict.fromkeys(("gpt2", "r50k_base", "p50k_base"), ("gpt2", {END_OF_TEXT: 50256})),
    "cl100k_base": ("cl100k", {END_OF_TEXT: 100257, **_FILL_IN, "<|endofprompt|>": 100276}),
    "o200k_base": ("o200k", {END_OF_TEXT: 199999, "<|endofprompt|>": 200018}),
}


def load_ranks(
    path: Path,
    pattern: str | None = None,
    special_tokens: Mapping[str, int] | None = None,
    roles: Mapping[str, str] | None = None,
    *,
    name: str | None = None,
) -> BPETokenizer:
    """The tokenizer of a rank file, with the same ids as tiktoken's.

    pattern: a name in `patterns.PATTERNS`, or an expression. special_tokens: text -> id. Without them they are those of
    the published file `name`, by default the name of the file without its ending. roles: as in `Tokenizer`; by default
    <|endoftext|> begins and ends a text, if it is there.
    Raises UserError for a file that is none, and for one whose pattern is not known.
    """
    path = Path(path)
    name = path.stem if name is None else name
    if pattern is None:
        if name not in PUBLISHED:
            raise UserError(
                f"{path}: a rank file holds neither pattern nor special tokens, and {name!r} is not the name of a "
                f"published one; load it with load_ranks(path, pattern, special_tokens){nearest(name, PUBLISHED)}"
            )
        pattern, specials = PUBLISHED[name]
        special_tokens = specials if special_tokens is None else special_tokens
    special_tokens = special_tokens or {}
    if roles is None:
        roles = dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT) if END_OF_TEXT in special_tokens else {}
    with reading(path, "a rank file"):
        vocabulary = _parse(read_file(path))
        size = max([*vocabulary.values(), *special_tokens.values()]) + 1
        return BPETokenizer(vocabulary, _merges(vocabulary), pattern, special_tokens, roles, whole=True, size=size)


def save_ranks(tokenizer: Tokenizer, path: Path) -> None:
    """Write the rank file with which tiktoken, given the same pattern and special tokens, makes the same ids.

    Raises UserError where there is none, with the reason.
    """
    if not isinstance(tokenizer, BPETokenizer):
        raise UserError(f"a rank file is for byte-level BPE, not for a tokenizer of kind {tokenizer.kind!r}")
    if tokenizer.normalizer is not None or len(tokenizer.patterns) != 1:
        raise UserError("tiktoken can't normalise text, nor cut it by several patterns; save it as tokenizer.json")
    ids = [tokenizer.vocabulary[tokenizer.token_bytes(a) + tokenizer.token_bytes(b)] for a, b in tokenizer.merges]
    if any(first > second for first, second in itertools.pairwise(ids)):
        raise UserError("tiktoken merges in the order of ids, this tokenizer in another; save it as tokenizer.json")
    missing = set(_merges(tokenizer.vocabulary)) - set(tokenizer.merges)
    never = len(tokenizer.vocabulary) - 256 - len(set(ids))
    if missing or (never and not tokenizer.whole):
        raise UserError("tiktoken would merge pairs that this tokenizer does not; save it as tokenizer.json")
    ranked = sorted(tokenizer.vocabulary.items(), key=lambda item: item[1])
    write_text(path, "".join(f"{base64.b64encode(token).decode()} {i}\n" for token, i in ranked))


def is_ranks(start: bytes) -> bool:
    """Whether a file that starts so looks like a rank file."""
    return re.match(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n", start) is not None


def _merges(vocabulary: Mapping[bytes, int]) -> list[tuple[int, int]]:
    """The merge of each token, in the order of ids."""
    tokens, ids = sorted(vocabulary, key=vocabulary.__getitem__), sorted(vocabulary.values())
    return [(ids[pair[0]], ids[pair[1]]) for pair in last_pairs(tokens) if pair is not None]


def _parse(data: bytes) -> dict[bytes, int]:
    """Token -> id."""
    vocabulary: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            spelled, rank = line.split(b" ")
            token, i = binascii.a2b_base64(spelled, strict_mode=True), int(rank)
        except ValueError:
            raise UserError(f"line {number} is not a token in base64, a blank and an id; get the file again") from None
        if token in vocabulary or not token or not 0 <= i < MAX_IDS:
            raise UserError(f"line {number}: {token!r} with id {i} was there before, is empty or out of range")
        vocabulary[token] = i
    return vocabulary
