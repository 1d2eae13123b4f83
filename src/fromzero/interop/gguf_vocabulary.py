"""A tokenizer as the metadata of a GGUF file, from which llama.cpp gives the same ids."""

import re
from typing import Any

import numpy as np

from fromzero.console import say
from fromzero.errors import UserError
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer import sentencepiece_file as sp
from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.bpe_file import spell
from fromzero.tokenizer.gguf_tokenizer import PATTERNS, PRE_TOKENIZERS, ROLES, WHOLE
from fromzero.tokenizer.patterns import resolve_pattern
from fromzero.tokenizer.sentencepiece_bpe import SentencePieceBPETokenizer
from fromzero.tokenizer.unigram import UnigramTokenizer

_NEAREST = {True: "llama-bpe", False: "smaug-bpe"}  # these two differ in what tokenizers call `whole`
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_Pieces = SentencePieceBPETokenizer | UnigramTokenizer


def write_tokenizer(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """The entries below "tokenizer."; size: rows of the model's embedding.

    Raises UserError for what llama.cpp has no name for. How a byte-level BPE cuts text, that is not: then the nearest
    way that it has is named, which a message says, and the exact one is added for fromzero.
    """
    if tokenizer.vocab_size > size:
        raise UserError(f"the tokenizer has {tokenizer.vocab_size} ids, but the model {size}; they don't go together")
    if isinstance(tokenizer, BPETokenizer):
        entries = _bpe(tokenizer, size)
    elif isinstance(tokenizer, _Pieces):
        entries = _pieces(tokenizer, size)
    else:
        raise UserError(f"llama.cpp can't generate with a tokenizer of the kind {tokenizer.kind}; train a bpe")
    ids = tokenizer.special_tokens
    entries |= {f"{ROLES[role[:-6]]}_token_id": ids[text] for role, text in tokenizer.roles.items()}
    entries["add_bos_token"] = tokenizer.prefix == (tokenizer.roles.get("bos_token"),)
    found = {f"tokenizer.ggml.{name}": value for name, value in entries.items() if name != PATTERNS}
    if tokenizer.chat_template is not None:
        found["tokenizer.chat_template"] = tokenizer.chat_template.source
    return found | ({PATTERNS: entries[PATTERNS]} if PATTERNS in entries else {})


def _bpe(tokenizer: BPETokenizer, size: int) -> dict[str, Any]:
    if tokenizer.normalizer is not None:
        raise UserError("the tokenizer changes texts before it encodes them, which GGUF can't say of a byte-level BPE")
    spelled = {i: spell(token) for token, i in tokenizer.vocabulary.items()}
    merges = [f"{spelled[left]} {spelled[right]}" for left, right in tokenizer.merges]
    known = {name: (tuple(map(resolve_pattern, patterns)), name in WHOLE) for name, patterns in PRE_TOKENIZERS.items()}
    exact = (name for name, cuts in known.items() if cuts == (tokenizer.patterns, tokenizer.whole))
    if (pre := next(exact, None)) is None:
        pre = _NEAREST[tokenizer.whole]
        say(f"llama.cpp can't cut text as this tokenizer does; it will as '{pre}' does, so long numbers get other ids")
    more = {} if known[pre][0] == tokenizer.patterns else {PATTERNS: list(tokenizer.patterns)}
    return {"model": "gpt2", "pre": pre, **_tokens(tokenizer, spelled, size), "merges": merges, **more}


def _pieces(tokenizer: _Pieces, size: int) -> dict[str, Any]:
    """Scores of merges are their places in the order."""
    scores: dict[int, float] = {}
    if isinstance(tokenizer, UnigramTokenizer):
        texts = dict(enumerate(piece for piece, _ in tokenizer.pieces))
        scores = dict(enumerate(score for _, score in tokenizer.pieces))
    else:
        texts = {i: piece for piece, i in tokenizer.vocabulary.items()}
        for rank, (left, right) in enumerate(tokenizer.merges):
            scores.setdefault(tokenizer.vocabulary[texts[left] + texts[right]], -float(rank))
    form = None if tokenizer.normalizer is None else tokenizer.normalizer.to_json()
    settings = (
        sp.Settings(add_dummy_prefix=tokenizer.leading_space, remove_extra_whitespaces=r) for r in (False, True)
    )
    said = [s for s in settings if tokenizer.metaspace is None and form == sp.normalizer_of(s).to_json()]
    if not said:
        raise UserError("the tokenizer prepares texts in a way that can't be written to GGUF; train a bpe")
    return {
        "model": "t5" if isinstance(tokenizer, UnigramTokenizer) else "llama",
        "add_space_prefix": tokenizer.leading_space,
        "remove_extra_whitespaces": said[0].remove_extra_whitespaces,
        "scores": np.array([scores.get(i, -1e6) for i in range(size)], np.float32),
        **_tokens(tokenizer, texts, size),
    }


def _tokens(tokenizer: Tokenizer, texts: dict[int, str], size: int) -> dict[str, Any]:
    """Tokens and their types; ids without a token are filled up."""
    kinds = np.full(size, sp.UNUSED, np.int32)
    kinds[list(texts)] = sp.NORMAL
    for text, token in tokenizer.added_tokens.items():
        texts[token.id] = text
        kinds[token.id] = sp.CONTROL if token.special else sp.USER_DEFINED
    if isinstance(tokenizer, _Pieces):
        kinds[[i for i, text in texts.items() if tokenizer.byte_fallback and _BYTE.fullmatch(text)]] = sp.BYTE
        unknown = tokenizer.unknown if isinstance(tokenizer, UnigramTokenizer) else tokenizer.unk
        kinds[[i for i, text in texts.items() if text == unknown]] = sp.UNKNOWN
    return {"tokens": [texts.get(i, f"[PAD{i}]") for i in range(size)], "token_type": kinds}
