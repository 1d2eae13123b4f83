"""Saved tokenizers, in Hugging Face's format: `tokenizers`, `transformers`, vLLM and llama.cpp open them as they are.

`tokenizer.json` holds the vocabulary, the merges and the pre-token pattern; `tokenizer_config.json` the chat template
and the roles of special tokens. What differs between kinds is in each kind's own file: a writer that returns the
pre-tokenizer, decoder and model, and a reader that takes them.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fromzero.errors import UserError
from fromzero.files import write_json
from fromzero.tokenizer.added import AddedToken
from fromzero.tokenizer.base import ROLES, Tokenizer
from fromzero.tokenizer.foreign import read_json, read_text, reading
from fromzero.tokenizer.normalize import read_normalizer

TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates/*.jinja"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write both files into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TOKENIZER_FILE, _tokenizer_json(tokenizer))
    write_json(folder / CONFIG_FILE, _config_json(tokenizer))


def read_tokenizer_json(file: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Read a `tokenizer.json`: this package's, or another's. config: see `read_config`.

    Raises UserError when the file is missing, broken, too large, or says something that would give other ids here than
    in the `tokenizers` library. Truncation and padding are left out, as transformers does until it is asked for them.
    """
    saved = read_json(file)
    with reading(file, "a tokenizer in Hugging Face's format"):
        return _read(saved, config)


def read_config(folder: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` in a folder says, with the chat templates if they are in files of their own."""
    config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else {}
    if (folder / TEMPLATE_FILE).exists():  # where transformers 5 keeps it
        files = {"default": folder / TEMPLATE_FILE} | {file.stem: file for file in sorted(folder.glob(MORE_TEMPLATES))}
        named = [{"name": name, "template": read_text(file)} for name, file in files.items()]
        config["chat_template"] = named if len(named) > 1 else named[0]["template"]
    return config


def common_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Tokenizer` that such a config holds: roles and chat_template."""
    tokens = {role: token for role in ROLES if (token := config.get(role)) is not None}
    # A special token is its text, or a mapping with the text under `content`.
    roles = {role: token["content"] if isinstance(token, Mapping) else token for role, token in tokens.items()}
    return {"roles": roles, "chat_template": config.get("chat_template")}


def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    parts = _module(tokenizer.kind)[0](tokenizer)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_write_added(text, token, tokenizer) for text, token in tokenizer.added_tokens.items()],
        "normalizer": None if tokenizer.normalizer is None else tokenizer.normalizer.to_json(),
        "pre_tokenizer": None,
        "post_processor": _post_processor(tokenizer),
        "decoder": None,
        **parts,
    }


def _write_added(text: str, token: AddedToken, tokenizer: Tokenizer) -> dict[str, Any]:
    if token.normalized and tokenizer.normalizer and tokenizer.normalizer(text) != text:
        raise UserError(
            f"the piece {text!r} is looked for after a blank was put before the text, which tokenizer.json can't say"
        )
    return {"id": token.id, "content": text, **{flag: getattr(token, flag) for flag in _FLAGS}}


def _post_processor(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """What puts `prefix` and `suffix` around a text, or around each of two."""
    if not tokenizer.prefix + tokenizer.suffix:
        return None

    def part(token: str, segment: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": segment}}

    def around(name: str, segment: int) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": name, "type_id": segment}}, *(part(token, segment) for token in tokenizer.suffix)]

    single = [*map(part, tokenizer.prefix), *around("A", 0)]
    ids = {token: tokenizer.special_tokens[token] for token in tokenizer.prefix + tokenizer.suffix}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *around("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids.items()},
    }


def _config_json(tokenizer: Tokenizer) -> dict[str, Any]:
    template = {} if tokenizer.chat_template is None else {"chat_template": tokenizer.chat_template.source}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokenizer.roles,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,  # the tokenizer has no limit; the model's config holds the model's
        **template,
    }


def _read(saved: Mapping[str, Any], config: Mapping[str, Any]) -> Tokenizer:
    added, vocabulary = saved["added_tokens"], saved["model"]["vocab"]
    ids = {token["content"]: token["id"] for token in added}
    if isinstance(vocabulary, dict):
        _check_ids(vocabulary, ids)
    prefix, suffix = _read_post_processor(saved.get("post_processor"), ids)
    common = {"special_tokens": ids, **common_of(config), "prefix": prefix, "suffix": suffix}
    common["normalizer"] = read_normalizer(saved.get("normalizer"))
    read: Callable[[Mapping[str, Any], Mapping[str, Any]], Tokenizer] = _module(_kind_of(saved))[1]
    tokenizer = read(saved, common)
    tokenizer.set_added_tokens({token["content"]: _read_added(token, tokenizer) for token in added})
    return tokenizer


def _check_ids(vocabulary: Mapping[str, int], added: Mapping[str, int]) -> None:
    """Raise UserError for an id that is no number, and for a hole in the model's ids; added tokens may leave some."""
    if strange := [token for token, i in (*vocabulary.items(), *added.items()) if type(i) is not int or i < 0]:
        raise UserError(f"its token {strange[0]!r} has no id; save it again")
    there = {*vocabulary.values(), *added.values()}
    highest = max((i for token, i in vocabulary.items() if token not in added), default=-1)
    if len(there) <= highest and (missing := next((i for i in range(highest) if i not in there), None)) is not None:
        raise UserError(f"its vocabulary has the id {highest}, but no token with id {missing}; save it again")


def _read_added(token: Mapping[str, Any], tokenizer: Tokenizer) -> AddedToken:
    flags = {flag: bool(token[flag]) for flag in _FLAGS}
    flags["special"] |= token["content"] in tokenizer.roles.values()  # as transformers does
    if flags["normalized"] and tokenizer.normalizer and tokenizer.normalizer(token["content"]) != token["content"]:
        raise UserError(f"its normalizer changes the added token {token['content']!r}, which fromzero can't represent")
    return AddedToken(token["id"], **flags)


def _kind_of(saved: Mapping[str, Any]) -> str:
    model = saved["model"].get("type", "BPE")
    if model not in _FILE_KINDS:
        raise UserError(f"it is a {model} model, which fromzero does not know; use another tokenizer")
    if model == "BPE":
        first = saved.get("pre_tokenizer") or {}
        steps = [first, *first.get("pretokenizers", ())]
        if not any(step.get("type") == "ByteLevel" for step in steps):
            return "spbpe"
    return _FILE_KINDS[model]


def _read_post_processor(post: Mapping[str, Any] | None, ids: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """The special tokens before and after a single text."""
    if post is None or post["type"] == "ByteLevel":
        return [], []
    if post["type"] == "Sequence":
        pairs = [_read_post_processor(part, ids) for part in post["processors"]]
        # Each puts its tokens around what the one before made.
        return [t for before, _ in reversed(pairs) for t in before], [t for _, after in pairs for t in after]
    if post["type"] in ("BertProcessing", "RobertaProcessing"):
        return [post["cls"][0]], [post["sep"][0]]
    if post["type"] != "TemplateProcessing":
        raise UserError(f"it adds tokens by a {post['type']} post-processor, which fromzero can't represent exactly")
    return _read_template(post, ids)


def _read_template(post: Mapping[str, Any], ids: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Those of a `TemplateProcessing`, which has a table of its own from names to tokens."""
    around: tuple[list[str], list[str]] = [], []
    texts = 0
    for part in post["single"]:
        if "SpecialToken" not in part:
            texts += 1
            continue
        entry = post["special_tokens"][part["SpecialToken"]["id"]]
        if [ids.get(token) for token in entry["tokens"]] != entry["ids"]:
            raise UserError(f"its post-processor adds {entry['tokens']} with other ids than the added tokens have")
        around[min(texts, 1)].extend(entry["tokens"])
    if texts != 1:
        raise UserError("its post-processor's template does not hold the text once")
    return around


def _module(kind: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The writer and the reader of a kind, imported when needed."""
    module, write, read = _KINDS[kind]
    found = importlib.import_module(f"fromzero.tokenizer.{module}")
    return getattr(found, write), getattr(found, read)


_KINDS = {  # kind -> module, writer, reader
    "bpe": ("bpe_file", "write_bpe", "read_bpe"),
    "byte": ("characters", "write_bytes", "read_bytes"),
    "char": ("word", "write_word", "read_word"),
    "word": ("word", "write_word", "read_word"),
    "spbpe": ("sentencepiece_json", "write_sentencepiece_bpe", "read_sentencepiece_bpe"),
    "wordpiece": ("wordpiece", "write_wordpiece", "read_wordpiece"),
    "unigram": ("sentencepiece_json", "write_unigram", "read_unigram"),
}
# The name of a model in `tokenizer.json` -> the kind whose reader takes it: that of bytes knows those of BPE.
_FILE_KINDS = {"BPE": "byte", "WordLevel": "word", "WordPiece": "wordpiece", "Unigram": "unigram"}
