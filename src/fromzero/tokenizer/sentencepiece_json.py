"""What SentencePiece learns, Unigram and its kind of BPE, in the Hugging Face format, as T5, Llama 2 and Gemma have it.

The blank before a text is the normalizer's work (`Prepend`) in older files, the pre-tokenizer's (`Metaspace`) in newer
ones.
"""

from collections.abc import Mapping
from typing import Any

from fromzero.errors import UserError
from fromzero.tokenizer.bpe_file import check_model, read_merges
from fromzero.tokenizer.sentencepiece_bpe import SentencePieceBPETokenizer
from fromzero.tokenizer.unigram import SPACE, Metaspace, UnigramTokenizer

_BLANKS = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
# Gemma cuts after blanks, of which its normalizer leaves none.
_NOTHING = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def write_unigram(tokenizer: UnigramTokenizer) -> dict[str, Any]:
    """The pre-tokenizer, decoder and model of `tokenizer.json`."""
    more = sorted((i, text) for text, i in tokenizer.special_tokens.items() if i >= len(tokenizer.pieces))
    return {
        "pre_tokenizer": _write_metaspace(tokenizer.metaspace),
        "decoder": _write_decoder(tokenizer.leading_space, tokenizer.byte_fallback),
        "model": {
            "type": "Unigram",
            "unk_id": tokenizer.special_tokens[tokenizer.unknown],
            "vocab": [*map(list, tokenizer.pieces), *([text, 0.0] for _, text in more)],
            "byte_fallback": tokenizer.byte_fallback,
        },
    }


def read_unigram(saved: Mapping[str, Any], common: Mapping[str, Any]) -> UnigramTokenizer:
    """The tokenizer of a parsed `tokenizer.json`; arguments and errors as in `read_bpe`."""
    model = saved["model"]
    if not isinstance(model["unk_id"], int) or not 0 <= model["unk_id"] < len(model["vocab"]):
        raise UserError("it has no piece for unknown characters, which fromzero needs; use another tokenizer")
    pieces = [(str(piece), float(score)) for piece, score in model["vocab"]]
    unknown = pieces[model["unk_id"]][0]
    specials = dict(common["special_tokens"])
    specials.setdefault(unknown, model["unk_id"])
    return UnigramTokenizer(
        pieces,
        unknown,
        **{**common, "special_tokens": specials},
        leading_space=_read_decoder(saved["decoder"]),
        metaspace=_read_metaspace(saved["pre_tokenizer"]),
        byte_fallback=model.get("byte_fallback", False),
    )


def write_sentencepiece_bpe(tokenizer: SentencePieceBPETokenizer) -> dict[str, Any]:
    """The pre-tokenizer, decoder and model of `tokenizer.json`."""
    pieces = {i: piece for piece, i in tokenizer.vocabulary.items()}
    return {
        "pre_tokenizer": _write_metaspace(tokenizer.metaspace),
        "decoder": _write_decoder(tokenizer.leading_space, True),
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
    """The tokenizer of a parsed `tokenizer.json`; arguments and errors as in `read_bpe`."""
    model, step = saved["model"], saved.get("pre_tokenizer")
    check_model(model)
    vocabulary = model["vocab"]
    # An added token that is an ordinary piece decodes as one.
    pieces = {token["content"] for token in saved["added_tokens"] if not token["special"]} & vocabulary.keys()
    special_tokens = {text: i for text, i in common["special_tokens"].items() if text not in pieces}
    return SentencePieceBPETokenizer(
        vocabulary,
        read_merges(model["merges"], vocabulary),
        model.get("unk_token"),
        **{**common, "special_tokens": special_tokens},
        leading_space=_read_decoder(saved["decoder"]),
        metaspace=None if step == _NOTHING and _replaces_blanks(saved.get("normalizer")) else _read_metaspace(step),
        byte_fallback=bool(model.get("byte_fallback")),
        fuse_unk=bool(model.get("fuse_unk")),
        whole=bool(model.get("ignore_merges")),
    )


def _replaces_blanks(normalizer: Mapping[str, Any] | None) -> bool:
    steps = [normalizer or {}, *(normalizer or {}).get("normalizers", ())]
    return any(step.get("type") == "Replace" and step["pattern"] == {"String": " "} for step in steps)


def _write_metaspace(metaspace: Metaspace | None) -> Any:
    if metaspace is None:
        return None
    step = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": metaspace.prepend, "split": metaspace.split}
    return {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, step]} if metaspace.words else step


def _write_decoder(leading_space: bool, bytes_too: bool) -> dict[str, Any]:
    """bytes_too: some pieces are bytes."""
    if not bytes_too:
        return _write_metaspace(Metaspace("always" if leading_space else "never"))
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if leading_space else []
    return {"type": "Sequence", "decoders": [_BLANKS, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]}


def _read_metaspace(saved: Mapping[str, Any] | None) -> Metaspace | None:
    """What a pre-tokenizer does to blanks; raises UserError for one that does something else."""
    if saved is None:
        return None
    steps = saved["pretokenizers"] if saved["type"] == "Sequence" else [saved]
    words = len(steps) == 2 and steps[0]["type"] == "WhitespaceSplit"
    step = steps[-1]
    if len(steps) != 1 + words or step["type"] != "Metaspace" or step["replacement"] != SPACE:
        raise UserError("it has a pre-tokenizer other than Metaspace, which fromzero can't represent exactly")
    prepend: Any = step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")
    metaspace = Metaspace(prepend, bool(step.get("split", True)), words)
    if prepend not in ("always", "first", "never") or (words and metaspace != Metaspace(words=True)):
        raise UserError(f"it has a Metaspace with prepend_scheme={prepend!r} that fromzero can't represent exactly")
    return metaspace


def _read_decoder(saved: Mapping[str, Any] | None) -> bool:
    """Whether decoding removes a blank at the beginning."""
    steps = saved["decoders"] if saved and saved["type"] == "Sequence" else [saved or {"type": "no"}]
    kinds = [step["type"] for step in steps]
    if kinds == ["Metaspace"]:
        return bool(steps[0].get("prepend_scheme", "always") != "never")
    if kinds[:3] != ["Replace", "ByteFallback", "Fuse"] or kinds[3:] not in ([], ["Strip"]) or steps[0] != _BLANKS:
        raise UserError("it has a decoder other than Metaspace, which fromzero can't represent exactly")
    return kinds[3:] == ["Strip"]
