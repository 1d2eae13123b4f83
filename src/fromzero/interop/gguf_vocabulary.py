"""A tokenizer as the metadata of a GGUF file, from which llama.cpp gives the same ids."""

from collections.abc import Iterable
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


def write_tokenizer(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """The entries below "tokenizer."; size: rows of the model's embedding.

    Raises UserError for what llama.cpp has no name for. How a byte-level BPE cuts text, that is not: then the nearest
    way that it has is named, which a message says, and the exact one is added for fromzero.
    """
    if tokenizer.vocab_size > size:
        raise UserError(f"the tokenizer has {tokenizer.vocab_size} ids, but the model {size}; they don't go together")
    if isinstance(tokenizer, BPETokenizer):
        entries = _bpe(tokenizer, size)
    elif isinstance(tokenizer, (SentencePieceBPETokenizer, UnigramTokenizer)):
        entries = _pieces(tokenizer, size)
    else:
        raise UserError(f"llama.cpp can't generate with a tokenizer of the kind {tokenizer.kind}; train a bpe")
    roles = {f"{ROLES[name]}_token_id": tokenizer.special_tokens[text] for name, text in _roles(tokenizer)}
    entries |= roles | {"add_bos_token": tokenizer.prefix == (tokenizer.roles.get("bos_token"),)}
    found = {f"tokenizer.ggml.{name}": value for name, value in entries.items()}
    if isinstance(tokenizer, BPETokenizer) and patterns_of(entries["pre"]) != tokenizer.patterns:
        say(f"llama.cpp can't cut text as this tokenizer does; it will do it as {entries['pre']} does")
        found[PATTERNS] = list(tokenizer.patterns)
    if tokenizer.chat_template is not None:
        found["tokenizer.chat_template"] = tokenizer.chat_template.source
    return found


def patterns_of(pre: str) -> tuple[str, ...]:
    """How llama.cpp cuts text where a file says `pre`."""
    return tuple(map(resolve_pattern, PRE_TOKENIZERS[pre]))


def _roles(tokenizer: Tokenizer) -> Iterable[tuple[str, str]]:
    return ((role.removesuffix("_token"), text) for role, text in tokenizer.roles.items())


def _bpe(tokenizer: BPETokenizer, size: int) -> dict[str, Any]:
    spelled = {i: spell(token) for token, i in tokenizer.vocabulary.items()}
    merges = [f"{spelled[left]} {spelled[right]}" for left, right in tokenizer.merges]
    if tokenizer.normalizer is not None:
        raise UserError("the tokenizer changes texts before it encodes them, which GGUF can't say of a byte-level BPE")
    known = (
        name
        for name in PRE_TOKENIZERS
        if patterns_of(name) == tokenizer.patterns and (name in WHOLE) == tokenizer.whole
    )
    pre = next(known, _NEAREST[tokenizer.whole])
    return {"model": "gpt2", "pre": pre, **_tokens(tokenizer, spelled, size), "merges": merges}


def _pieces(tokenizer: SentencePieceBPETokenizer | UnigramTokenizer, size: int) -> dict[str, Any]:
    """Scores of merges are their places in the order."""
    if isinstance(tokenizer, UnigramTokenizer):
        model, scores = "t5", dict(enumerate(score for _, score in tokenizer.pieces))
        texts = {i: piece for i, (piece, _) in enumerate(tokenizer.pieces)}
    else:
        model, texts = "llama", {i: piece for piece, i in tokenizer.vocabulary.items()}
        ids, scores = tokenizer.vocabulary, {}
        for rank, (left, right) in enumerate(tokenizer.merges):
            scores.setdefault(ids[texts[left] + texts[right]], -float(rank))
    ordered = np.array([scores.get(i, -1e6) for i in range(size)], np.float32)
    return {
        "model": model,
        "add_space_prefix": tokenizer.leading_space,
        "remove_extra_whitespaces": _removes_blanks(tokenizer),
        "scores": ordered,
        **_tokens(tokenizer, texts, size),
    }


def _removes_blanks(tokenizer: SentencePieceBPETokenizer | UnigramTokenizer) -> bool:
    """What is left to say of how text is prepared. Raises UserError where there is more to it."""
    form = None if tokenizer.normalizer is None else tokenizer.normalizer.to_json()
    for removes in (False, True):
        settings = sp.Settings(add_dummy_prefix=tokenizer.leading_space, remove_extra_whitespaces=removes)
        if tokenizer.metaspace is None and form == sp.normalizer_of(settings).to_json():
            return removes
    raise UserError("the tokenizer prepares texts in a way that can't be written to GGUF; train a bpe")


def _tokens(tokenizer: Tokenizer, texts: dict[int, str], size: int) -> dict[str, Any]:
    """Ids without a token are filled up."""
    kinds = np.full(size, sp.UNUSED, np.int32)
    kinds[list(texts)] = sp.NORMAL
    for text, token in tokenizer.added_tokens.items():
        texts[token.id] = text
        kinds[token.id] = sp.CONTROL if token.special else sp.USER_DEFINED
    if getattr(tokenizer, "byte_fallback", False):
        kinds[[i for i, text in texts.items() if len(text) == 6 and text[:3] == "<0x"]] = sp.BYTE
    if (unknown := tokenizer.roles.get("unk_token")) and not isinstance(tokenizer, BPETokenizer):
        kinds[tokenizer.special_tokens[unknown]] = sp.UNKNOWN
    return {"tokens": [texts.get(i, f"[PAD{i}]") for i in range(size)], "token_type": kinds}
