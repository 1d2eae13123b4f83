"""SentencePiece's kind of BPE in the Hugging Face format, in the forms of Llama 2, Mistral and Gemma.

The blank before a text is the normalizer's work (`Prepend`) in the older form, the pre-tokenizer's (`Metaspace`) in the
newer one.
"""

from collections.abc import Mapping
from typing import Any

from fromzero.errors import UserError
from fromzero.tokenizer.bpe_file import check_model, split_merge
from fromzero.tokenizer.sentencepiece_bpe import SentencePieceBPETokenizer
from fromzero.tokenizer.unigram_file import read_decoder, read_metaspace, write_decoder, write_metaspace

# Gemma cuts after blanks, of which its normalizer leaves none.
_NOTHING = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def write_sentencepiece_bpe(tokenizer: SentencePieceBPETokenizer) -> dict[str, Any]:
    """The pre-tokenizer, decoder and model of `tokenizer.json`."""
    pieces = {i: piece for piece, i in tokenizer.vocabulary.items()}
    return {
        "pre_tokenizer": write_metaspace(tokenizer.metaspace) if tokenizer.metaspace else None,
        "decoder": write_decoder(tokenizer.leading_space),
        "model": {
            "type": "BPE",
            "unk_token": tokenizer.unk,
            "fuse_unk": tokenizer.fuse_unk,
            "byte_fallback": tokenizer.byte_fallback,
            "ignore_merges": tokenizer.whole,
            "vocab": tokenizer.vocabulary | {text: token.id for text, token in tokenizer.added_tokens.items()},
            "merges": [[pieces[left], pieces[right]] for left, right in tokenizer.merges],
        },
    }


def read_sentencepiece_bpe(saved: Mapping[str, Any], common: Mapping[str, Any]) -> SentencePieceBPETokenizer:
    """The tokenizer of a parsed `tokenizer.json`; common: what all kinds share, as arguments of `Tokenizer`.

    Raises UserError for what can't be represented exactly.
    """
    model, step = saved["model"], saved.get("pre_tokenizer")
    check_model(model)
    vocabulary = model["vocab"]
    pairs = list(map(split_merge, model["merges"]))
    if unknown := [half for pair in pairs for half in pair if half not in vocabulary]:
        raise UserError(f"it has a merge with {unknown[0]!r}, which is not in its vocabulary; save it again")
    # An added token that is an ordinary piece decodes as one.
    pieces = {token["content"] for token in saved["added_tokens"] if not token["special"]} & vocabulary.keys()
    special_tokens = {text: i for text, i in common["special_tokens"].items() if text not in pieces}
    return SentencePieceBPETokenizer(
        vocabulary,
        [(vocabulary[left], vocabulary[right]) for left, right in pairs],
        model.get("unk_token"),
        **{**common, "special_tokens": special_tokens},
        leading_space=read_decoder(saved["decoder"]),
        metaspace=None if step == _NOTHING and _replaces_blanks(saved.get("normalizer")) else read_metaspace(step),
        byte_fallback=bool(model.get("byte_fallback")),
        fuse_unk=bool(model.get("fuse_unk")),
        whole=bool(model.get("ignore_merges")),
    )


def _replaces_blanks(normalizer: Mapping[str, Any] | None) -> bool:
    steps = [normalizer or {}, *(normalizer or {}).get("normalizers", ())]
    return any(step.get("type") == "Replace" and step["pattern"] == {"String": " "} for step in steps)
