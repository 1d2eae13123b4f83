"""Opening a tokenizer, whoever made it: what a file is shows in its first bytes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fromzero.artifact import here
from fromzero.errors import UserError
from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.bpe_file import read_gpt2
from fromzero.tokenizer.gguf import MAGIC
from fromzero.tokenizer.gguf_tokenizer import load_gguf
from fromzero.tokenizer.huggingface import TOKENIZER_FILE, common_of, read_config, read_tokenizer_json
from fromzero.tokenizer.ranks import is_ranks, load_ranks
from fromzero.tokenizer.sentencepiece_file import load_sentencepiece
from fromzero.tokenizer.wordpiece import load_vocab_txt

# In a folder, the first that is there is opened.
NAMES = (
    TOKENIZER_FILE, "vocab.json", "encoder.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "vocab.txt", "*.tiktoken", "*.model", "*.gguf",
)  # fmt: skip
_PAIRS = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
_MERGES = {merges: vocabulary for vocabulary, merges in _PAIRS.items()}
CAN_OPEN = (
    "tokenizer.json, GPT-2's vocab.json and merges.txt, a tiktoken rank file, a SentencePiece model, BERT's vocab.txt, "
    "a GGUF file"
)


def load_tokenizer(path: Path) -> Tokenizer:
    """Open the tokenizer of a folder or file; `CAN_OPEN` says which.

    Beside a file, `tokenizer_config.json` tells roles and chat template. Ids are those of the library that the file is
    for. Raises UserError when it is missing, damaged, too large, none of these, or can't be represented exactly.
    """
    path = here(Path(path))
    file = _in_folder(path) if path.is_dir() else path
    config = read_config(file.parent)
    return _reader(file)(file, config)


def _in_folder(folder: Path) -> Path:
    for name in NAMES:
        if found := sorted(folder.glob(name)):
            if len(found) > 1:
                raise UserError(f"{folder} holds {found[0].name} and {found[1].name}; name the file that is meant")
            return found[0]
    raise UserError(f"{folder}: no such file or folder with a tokenizer; what can be opened: {CAN_OPEN}")


def _reader(file: Path) -> Callable[[Path, Mapping[str, Any]], Tokenizer]:
    try:
        with file.open("rb") as opened:
            start = opened.read(1 << 12)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; name a file or folder that holds a tokenizer") from None
    except OSError as error:
        raise UserError(f"{file} can't be read ({error})") from error
    if start.startswith(MAGIC):
        return lambda file, config: load_gguf(file)
    if file.suffix == ".json" or start.lstrip().startswith(b"{"):
        return _read_pair if file.name in _PAIRS else read_tokenizer_json
    if file.name in _MERGES or start.startswith(b"#version"):
        return lambda file, config: _read_pair(file.with_name(_MERGES.get(file.name, "vocab.json")), config)
    if is_ranks(start):
        return lambda file, config: load_ranks(file)
    if start.startswith(b"\n"):  # the first field of a SentencePiece model: a piece
        return _read_sentencepiece
    if b"[UNK]" in start or file.name == "vocab.txt":
        return _read_vocab_txt
    raise UserError(f"{file} is no tokenizer that is known here; what can be opened: {CAN_OPEN}")


def _read_pair(file: Path, config: Mapping[str, Any]) -> Tokenizer:
    merges = file.with_name(_PAIRS.get(file.name, "merges.txt"))
    return read_gpt2(file, merges, config, **common_of(config))


def _read_vocab_txt(file: Path, config: Mapping[str, Any]) -> Tokenizer:
    names = {"do_lower_case": "lowercase", "tokenize_chinese_chars": "handle_chinese_chars"}
    settings = {names.get(name, name): config[name] for name in (*names, "strip_accents") if name in config}
    return load_vocab_txt(file, **settings)


def _read_sentencepiece(file: Path, config: Mapping[str, Any]) -> Tokenizer:
    given = {name: value for name, value in common_of(config).items() if value}  # else the file says it
    return load_sentencepiece(file, **given)
