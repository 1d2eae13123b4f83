"""The tokenizer in the metadata of a GGUF file, with the ids that llama.cpp gives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fromzero.errors import UserError
from fromzero.tokenizer import sentencepiece_file as sp
from fromzero.tokenizer.added import AddedToken
from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.bpe_file import from_spelled
from fromzero.tokenizer.foreign import reading
from fromzero.tokenizer.gguf import read_gguf_header
from fromzero.tokenizer.normalize import bert
from fromzero.tokenizer.patterns import GPT2, TEKKEN
from fromzero.tokenizer.unigram import SPACE
from fromzero.tokenizer.wordpiece import CONTINUES, WordPieceTokenizer, around

_HAN = "[一-龥ࠀ-一가-\ud7ff]+"
_DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
# Letters that have case, but for those that the authors' list lacks; signs, with some letters in their ranges.
_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚ\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4"
    "\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115"
    "\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149ⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛ"
    "Ꜣ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿ\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_SIGNS = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
# How the file calls a way of cutting text -> the patterns, applied one after the other.
PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), (GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "command-r"), (r"\p{N}", GPT2)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "dbrx", "smaug-bpe"), ("llama3",)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"), ("qwen2",)),
    **dict.fromkeys(("gpt-4o", "llama4"), ("o200k",)),
    "tekken": (TEKKEN,),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}"),
    "deepseek-llm": (r"[\r\n]", rf"\s?[{_LETTERS}]+", rf"\s?[{_SIGNS}]+", r"\s+(?![\s\S])", _HAN, r"\p{N}+"),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), _DEEPSEEK_3),
}
# These begin a text with bos, and take known pre-tokens whole.
WHOLE = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")
PATTERNS = "fromzero.patterns"  # an entry of our own, for ways of cutting text that llama.cpp has no name for
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "mask": "mask", "cls": "cls"}
ROLES["sep"] = "seperator"  # as the format spells it


def load_gguf(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file, of the models gpt2, llama (SentencePiece's BPE), t5 (its Unigram) or bert.

    Raises UserError for a damaged file, one without a tokenizer, and for what can't be represented exactly.
    """
    path = Path(path)
    metadata = read_gguf_header(path).metadata
    with reading(path, "a GGUF file with a tokenizer"):
        data = {name.removeprefix("tokenizer.ggml."): value for name, value in metadata.items()}
        if data.get("model") not in _READERS:
            raise UserError(f"its tokenizer is of the model {data.get('model')!r}, not one of {', '.join(_READERS)}")
        tokens = data["tokens"]
        types = [int(kind) for kind in data.get("token_type", [sp.NORMAL] * len(tokens))]
        if not isinstance(tokens, list) or len(types) != len(tokens) or not all(isinstance(t, str) for t in tokens):
            raise UserError("its tokens are no texts, or more or fewer than their types; get the file again")
        return _READERS[data["model"]](data, tokens, types, _common(data, tokens, types))


def _common(data: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    """What all kinds share, as arguments of `Tokenizer`."""
    ids = {role: data.get(f"{name}_token_id") for role, name in ROLES.items()}
    roles = {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None}
    special = {i for i, kind in enumerate(types) if kind in (sp.CONTROL, sp.UNKNOWN)}
    special |= {i for i in ids.values() if i is not None}
    begins = data.get("add_bos_token", data["model"] == "llama" or data.get("pre") in WHOLE)
    return {
        "special_tokens": {tokens[i]: i for i in sorted(special)},
        "roles": roles,
        "chat_template": data.get("tokenizer.chat_template"),
        "prefix": [roles["bos_token"]] if begins and "bos_token" in roles else [],
        "suffix": [roles["eos_token"]] if data.get("add_eos_token") and "eos_token" in roles else [],
    }


def _read_bpe(data: Mapping[str, Any], tokens: list[str], types: list[int], common: dict[str, Any]) -> Tokenizer:
    pre = data.get("pre")
    if pre not in PRE_TOKENIZERS:
        raise UserError(f"it cuts text in the way {pre!r}, which is not known; known are {', '.join(PRE_TOKENIZERS)}")
    plain = {token: i for i, token in enumerate(tokens) if types[i] == sp.USER_DEFINED}
    added = plain | common["special_tokens"]
    spelled = {token: i for i, token in enumerate(tokens) if token not in added and types[i] != sp.UNUSED}
    common |= {"special_tokens": added, "whole": pre in WHOLE, "unknown": -1}
    tokenizer = from_spelled(spelled, data["merges"], data.get(PATTERNS, PRE_TOKENIZERS[pre]), **common)
    tokenizer.set_added_tokens({token: AddedToken(i, special=False) for token, i in plain.items()})
    return tokenizer


def _read_pieces(data: Mapping[str, Any], tokens: list[str], types: list[int], common: dict[str, Any]) -> Tokenizer:
    scores = [float(score) for score in data["scores"]]
    pieces = [sp.Piece(*piece) for piece in zip(tokens, scores, types, strict=True)]
    settings = sp.Settings(
        kind="bpe" if data["model"] == "llama" else "unigram",
        precision=np.float64,
        charsmap=bytes(data.get("precompiled_charsmap", b"")),
        add_dummy_prefix=bool(data.get("add_space_prefix", True)),
        remove_extra_whitespaces=bool(data.get("remove_extra_whitespaces", False)),
    )
    return sp.from_pieces(pieces, settings, **common)


def _read_bert(data: Mapping[str, Any], tokens: list[str], types: list[int], common: dict[str, Any]) -> Tokenizer:
    """Here the tokens that begin a word are marked, not those that go on with one."""
    vocabulary = {
        token.removeprefix(SPACE) if token.startswith(SPACE) else CONTINUES + token: i
        for i, token in enumerate(tokens)
        if token not in common["special_tokens"]
    }
    common |= {**around(common["special_tokens"]), "normalizer": bert()}
    return WordPieceTokenizer(vocabulary, common["roles"].get("unk_token", "[UNK]"), **common)


_READERS = {"gpt2": _read_bpe, "llama": _read_pieces, "t5": _read_pieces, "bert": _read_bert}
