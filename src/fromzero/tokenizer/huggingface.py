"""Saved tokenizers, in Hugging Face's format: `tokenizers`, `transformers`, vLLM and llama.cpp open them as they are.

`tokenizer.json` holds the vocabulary, the merges and the pre-token pattern; `tokenizer_config.json` the chat template
and the roles of special tokens. JSON can't hold raw bytes, so every byte is spelled as a printable character, in the
assignment that GPT-2 chose.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fromzero.artifact import write_json
from fromzero.errors import UserError
from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.patterns import GPT2

TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
MAX_FILE_BYTES = 256 << 20  # the largest published ones have some 30 MB


def save_tokenizer(tokenizer: BPETokenizer, folder: Path) -> None:
    """Write both files into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TOKENIZER_FILE, _tokenizer_json(tokenizer))
    write_json(folder / CONFIG_FILE, _config_json(tokenizer))


def load_tokenizer(folder: Path) -> BPETokenizer:
    """Read a tokenizer from a folder that holds `tokenizer.json`: a tokenizer, tokens or model artifact, or another's.

    Raises UserError when the file is missing, broken, larger than MAX_FILE_BYTES, or says something that would give
    other ids here than in the `tokenizers` library.
    """
    folder = Path(folder)
    file = folder / TOKENIZER_FILE
    try:
        return _read(file, _read_json(file), _read_config(folder))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise UserError(f"{file} is not a tokenizer in Hugging Face's format ({error!r}); save it again") from error
    except UserError as error:
        raise error if str(error).startswith(str(folder)) else UserError(f"{file}: {error}") from error


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
def _bytes_of() -> dict[str, int]:
    return {character: byte for byte, character in _spelling().items()}


def _tokenizer_json(tokenizer: BPETokenizer) -> dict[str, Any]:
    vocabulary = {spell(token): i for token, i in tokenizer.vocabulary.items()}
    if clash := vocabulary.keys() & tokenizer.special_tokens.keys():
        raise UserError(f"the special token {min(clash)!r} is spelled like an ordinary one; choose another text for it")
    spelled = [spell(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(text, i) for text, i in tokenizer.special_tokens.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": tokenizer.pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary | tokenizer.special_tokens,
            "merges": [[spelled[left], spelled[right]] for left, right in tokenizer.merges],
        },
    }


def _added_token(text: str, i: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": i, "content": text, **flags}


def _config_json(tokenizer: BPETokenizer) -> dict[str, Any]:
    end = tokenizer.end_of_text_token
    template = {} if tokenizer.chat_template is None else {"chat_template": tokenizer.chat_template.source}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
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


def _read(file: Path, saved: Mapping[str, Any], config: Mapping[str, Any]) -> BPETokenizer:
    model = saved["model"]
    _check_model(file, saved, model)
    special_tokens = _read_special_tokens(file, saved["added_tokens"])
    vocabulary = {_unspell(file, t): i for t, i in model["vocab"].items() if t not in special_tokens}
    ids = {spell(token): i for token, i in vocabulary.items()}
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    if unknown := [half for merge in merges for half in merge if half not in ids]:
        raise UserError(f"{file} has a merge with {unknown[0]!r}, which is not in its vocabulary; save it again")
    return BPETokenizer(
        vocabulary=vocabulary,
        merges=[(ids[left], ids[right]) for left, right in merges],
        pattern=_read_pattern(file, saved["pre_tokenizer"]),
        special_tokens=special_tokens,
        end_of_text=_token_text(config.get("bos_token") or config.get("eos_token")),
        chat_template=config.get("chat_template"),
    )


def _refuse(file: Path, what: str) -> NoReturn:
    raise UserError(f"{file} {what}, which fromzero can't represent exactly; use another tokenizer")


def _check_model(file: Path, saved: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    if model.get("type", "BPE") != "BPE":
        _refuse(file, f"is a {model['type']} model")
    for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(name):
            _refuse(file, f"has the model setting {name}={model[name]!r}")
    for name in ("normalizer", "truncation", "padding"):
        if saved.get(name):
            _refuse(file, f"has a {name}")
    if _adds_tokens(saved.get("post_processor")):
        _refuse(file, f"adds tokens by a {saved['post_processor']['type']} post-processor")
    if (saved.get("decoder") or {}).get("type") != "ByteLevel":
        _refuse(file, "has a decoder that is not ByteLevel")


def _adds_tokens(post_processor: Mapping[str, Any] | None) -> bool:
    """transformers writes a template without special tokens for a tokenizer that has no post-processor."""
    if post_processor is None or post_processor["type"] == "ByteLevel":
        return False
    return post_processor["type"] != "TemplateProcessing" or bool(post_processor["special_tokens"])


def _read_special_tokens(file: Path, added: list[Mapping[str, Any]]) -> dict[str, int]:
    for token in added:
        for flag in ("lstrip", "rstrip", "single_word"):
            if token.get(flag):
                _refuse(file, f"has the added token {token['content']!r} with {flag}")
    return {token["content"]: token["id"] for token in added}


def _read_pattern(file: Path, pre_tokenizer: Mapping[str, Any]) -> str:
    """The pattern of `Split` followed by `ByteLevel`, or GPT-2's, which a lone `ByteLevel` has built in."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    *splits, last = steps
    if last["type"] != "ByteLevel" or last.get("add_prefix_space", True):
        _refuse(file, "has a pre-tokenizer that does not end in ByteLevel without a prefix space")
    if not splits and last.get("use_regex", True):
        return GPT2
    if len(splits) != 1 or last.get("use_regex", True) or splits[0]["type"] != "Split":
        _refuse(file, "has pre-tokenizers other than one Split and ByteLevel")
    split = splits[0]
    if split["behavior"] != "Isolated" or split.get("invert") or "Regex" not in split["pattern"]:
        _refuse(file, "splits by something else than an isolating regular expression")
    return str(split["pattern"]["Regex"])


def _unspell(file: Path, token: str) -> bytes:
    table = _bytes_of()
    if not all(character in table for character in token):
        _refuse(file, f"has the token {token!r}, which is not spelled in bytes")
    return bytes(table[character] for character in token)


def _token_text(token: Any) -> str | None:
    """A special token in a config is its text, or a mapping with the text under `content`."""
    return token["content"] if isinstance(token, Mapping) else token
