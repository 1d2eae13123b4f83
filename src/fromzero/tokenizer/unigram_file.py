"""Unigram in the Hugging Face format: the parts of `tokenizer.json` that are this kind's own."""

from collections.abc import Mapping
from typing import Any

from fromzero.errors import UserError
from fromzero.tokenizer.unigram import SPACE, Metaspace, UnigramTokenizer

_BLANKS = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}


def write_unigram(tokenizer: UnigramTokenizer) -> dict[str, Any]:
    """The pre-tokenizer, decoder and model of `tokenizer.json`."""
    more = sorted((i, text) for text, i in tokenizer.special_tokens.items() if i >= len(tokenizer.pieces))
    return {
        "pre_tokenizer": write_metaspace(tokenizer.metaspace) if tokenizer.metaspace else None,
        "decoder": _decoder(tokenizer),
        "model": {
            "type": "Unigram",
            "unk_id": tokenizer.special_tokens[tokenizer.unknown],
            "vocab": [*map(list, tokenizer.pieces), *([text, 0.0] for _, text in more)],
            "byte_fallback": tokenizer.byte_fallback,
        },
    }


def read_unigram(saved: Mapping[str, Any], common: Mapping[str, Any]) -> UnigramTokenizer:
    """The tokenizer of a parsed `tokenizer.json`; common: what all kinds share, as arguments of `Tokenizer`.

    Raises UserError for what can't be represented exactly.
    """
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
        leading_space=read_decoder(saved["decoder"]),
        metaspace=read_metaspace(saved["pre_tokenizer"]),
        byte_fallback=model.get("byte_fallback", False),
    )


def write_metaspace(metaspace: Metaspace) -> dict[str, Any]:
    """The pre-tokenizer of `tokenizer.json`."""
    step = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": metaspace.prepend,
        "split": metaspace.split,
    }
    return {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, step]} if metaspace.words else step


def _decoder(tokenizer: UnigramTokenizer) -> dict[str, Any]:
    if not tokenizer.byte_fallback:
        scheme = "always" if tokenizer.leading_space else "never"
        return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": True}
    return write_decoder(tokenizer.leading_space)


def write_decoder(leading_space: bool) -> dict[str, Any]:
    """The decoder of `tokenizer.json` where some pieces are bytes."""
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if leading_space else []
    return {"type": "Sequence", "decoders": [_BLANKS, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]}


def read_metaspace(saved: Mapping[str, Any] | None) -> Metaspace | None:
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


def read_decoder(saved: Mapping[str, Any] | None) -> bool:
    """Whether decoding removes a blank at the beginning."""
    steps = saved["decoders"] if saved and saved["type"] == "Sequence" else [saved or {"type": "no"}]
    kinds = [step["type"] for step in steps]
    if kinds == ["Metaspace"]:
        return bool(steps[0].get("prepend_scheme", "always") != "never")
    if kinds[:3] != ["Replace", "ByteFallback", "Fuse"] or kinds[3:] not in ([], ["Strip"]) or steps[0] != _BLANKS:
        raise UserError("it has a decoder other than Metaspace, which fromzero can't represent exactly")
    return kinds[3:] == ["Strip"]
