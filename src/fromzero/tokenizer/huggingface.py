"""Saved tokenizers, in Hugging Face's format: `tokenizers`, `transformers`, vLLM and llama.cpp open them as they are.

`tokenizer.json` holds the vocabulary, the merges and the pre-token pattern; `tokenizer_config.json` the chat template
and the roles of special tokens. What differs between kinds is in each kind's own file: a writer that returns the
normalizer, pre-tokenizer, decoder and model, and a reader that takes them.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fromzero.artifact import write_json
from fromzero.errors import UserError
from fromzero.tokenizer.base import ROLES, Tokenizer

TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
MAX_FILE_BYTES = 256 << 20  # the largest published ones have some 30 MB


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write both files into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TOKENIZER_FILE, _tokenizer_json(tokenizer))
    write_json(folder / CONFIG_FILE, _config_json(tokenizer))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a tokenizer from a folder that holds `tokenizer.json`: a tokenizer, tokens or model artifact, or another's.

    Raises UserError when the file is missing, broken, larger than MAX_FILE_BYTES, or says something that would give
    other ids here than in the `tokenizers` library.
    """
    folder = Path(folder)
    file = folder / TOKENIZER_FILE
    try:
        return _read(_read_json(file), _read_config(folder))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UserError(f"{file} is not a tokenizer in Hugging Face's format ({error!r}); save it again") from error
    except UserError as error:
        raise error if str(error).startswith(str(folder)) else UserError(f"{file}: {error}") from error


def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    parts = _module(tokenizer.kind)[0](tokenizer)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(text, i) for text, i in tokenizer.special_tokens.items()],
        "normalizer": None if tokenizer.normalizer is None else tokenizer.normalizer.to_json(),
        "pre_tokenizer": None,
        "post_processor": _post_processor(tokenizer),
        "decoder": None,
        **parts,
    }


def _added_token(text: str, i: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": i, "content": text, **flags}


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


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{file} is larger than {MAX_FILE_BYTES} bytes; that can't be a tokenizer")
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; name a folder that holds a tokenizer") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} can't be read ({error}); save the tokenizer again") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} should hold a JSON object, not a {type(value).__name__}")
    return value


def _read_config(folder: Path) -> dict[str, Any]:
    config = _read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else {}
    template = folder / TEMPLATE_FILE  # where transformers 5 keeps it
    if template.exists():
        if template.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{template} is larger than {MAX_FILE_BYTES} bytes; that can't be a chat template")
        config["chat_template"] = template.read_text(encoding="utf-8")
    return config


def _read(saved: Mapping[str, Any], config: Mapping[str, Any]) -> Tokenizer:
    for name in ("truncation", "padding"):
        if saved.get(name):
            raise UserError(f"it has a {name}, which fromzero can't represent exactly; use another tokenizer")
    prefix, suffix = _read_post_processor(saved.get("post_processor"))
    common = {
        "special_tokens": _read_special_tokens(saved["added_tokens"]),
        "roles": {role: text for role in ROLES if (text := _token_text(config.get(role))) is not None},
        "chat_template": config.get("chat_template"),
        "prefix": prefix,
        "suffix": suffix,
    }
    kind = saved["model"].get("type", "BPE")
    if kind not in _FILE_KINDS:
        raise UserError(f"it is a {kind} model, which fromzero does not know; use another tokenizer")
    read: Callable[[Mapping[str, Any], Mapping[str, Any]], Tokenizer] = _module(_FILE_KINDS[kind])[1]
    return read(saved, common)


def _read_post_processor(post: Mapping[str, Any] | None) -> tuple[list[str], list[str]]:
    """The special tokens before and after a single text."""
    if post is None or post["type"] == "ByteLevel":
        return [], []
    if post["type"] != "TemplateProcessing":
        raise UserError(f"it adds tokens by a {post['type']} post-processor, which fromzero can't represent exactly")
    parts: list[Any] = [part["SpecialToken"]["id"] if "SpecialToken" in part else None for part in post["single"]]
    if parts.count(None) != 1:
        raise UserError("its post-processor's template does not hold the text once")
    return parts[: parts.index(None)], parts[parts.index(None) + 1 :]


def _read_special_tokens(added: list[Mapping[str, Any]]) -> dict[str, int]:
    for token in added:
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag):
                raise UserError(
                    f"it has the added token {token['content']!r} with {flag}, which fromzero can't represent"
                )
    return {token["content"]: token["id"] for token in added}


def _token_text(token: Any) -> str | None:
    """A special token in a config is its text, or a mapping with the text under `content`."""
    return token["content"] if isinstance(token, Mapping) else token


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
    "wordpiece": ("wordpiece", "write_wordpiece", "read_wordpiece"),
    "unigram": ("unigram_file", "write_unigram", "read_unigram"),
}
# The name of a model in `tokenizer.json` -> kind.
_FILE_KINDS = {"BPE": "bpe", "WordLevel": "word", "WordPiece": "wordpiece", "Unigram": "unigram"}
