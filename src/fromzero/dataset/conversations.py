"""The stage that turns conversations into token shards with a loss mask."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fromzero.artifact import Artifact, build, digest_file, digest_of, here
from fromzero.console import progress
from fromzero.dataset.packing import summarise
from fromzero.dataset.writing import (
    SPLITS,
    TokenWriter,
    copy_tokenizer,
    load_for_packing,
    tokenizer_digest,
    write_index,
)
from fromzero.errors import UserError
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.chat import check_messages

VERSION = 2
VALIDATION_SHARE = 0.05
MAX_LINE_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class ConversationsConfig:
    """How to turn conversations into token shards with a loss mask."""

    input: Path
    """A file with one JSON object a line, {"messages": [{"role": ..., "content": ...}, ...]}, and "tools", as
    OpenAI describes functions, where the assistant may call some; further keys are ignored. Or a folder with
    train.jsonl and, if there are held-out conversations, validation.jsonl."""
    tokenizer: Path
    """A folder with the tokenizer of the model to tune. It needs a chat template."""
    output: Path
    """Folder for the shards."""
    context: int = 1024
    """Tokens of the longest conversation that is kept whole; at most the model's context."""
    truncate: Literal["left", "right"] = "right"
    """Side from which a longer conversation loses tokens: its beginning or its end."""
    validation_share: float = VALIDATION_SHARE
    """Share of the conversations that is held out, chosen by their contents, when there is no validation.jsonl."""
    shard_tokens: int = 100_000_000
    """Tokens in one shard file."""

    def __post_init__(self) -> None:
        if self.context < 2:
            raise UserError(f"context is {self.context}; it should be 2 or more")
        if not 0 <= self.validation_share < 1:
            raise UserError(f"validation_share is {self.validation_share}; it should be 0 or more and below 1")


class _Line(NamedTuple):
    """A conversation and where it is from."""

    messages: list[dict[str, Any]]
    tools: Any
    split: str
    place: str
    bytes_read: int


def pack_conversations(config: ConversationsConfig) -> Artifact:
    """Encode conversations with the tokenizer's chat template; a 'tokens' artifact with a loss mask.

    Its summary: vocab_size, masked, truncated (conversations that lost tokens), without_loss (dropped, because no token
    that carries loss was left), and for each split the documents, tokens, loss_tokens, bytes and bytes per token.
    Raises UserError that names file and line when a line can't be read.
    """
    files, source = _files(here(config.input)), here(config.tokenizer)
    digest = tokenizer_digest(source)

    def make(folder: Path) -> Mapping[str, Any]:
        tokenizer = load_for_packing(source)
        size = tokenizer.vocab_size
        writers: dict[str, TokenWriter] = {
            split: TokenWriter(folder, split, size, config.shard_tokens, masked=True) for split in SPLITS
        }
        with progress("Packing conversations", sum(f.stat().st_size for f in files.values()), "bytes") as report:
            counts = _pack(config, files, tokenizer, writers, report)
        splits = {split: writer.close() for split, writer in writers.items()}
        if not splits["train"]["documents"]:
            raise UserError(f"{config.input} holds no conversation to train on; add some")
        copy_tokenizer(source, folder)
        write_index(folder, tokenizer, digest, splits, masked=True)
        return {"vocab_size": size, "masked": True, **counts, **summarise(splits)}

    inputs = {"tokenizer": digest, **{split: digest_file(file) for split, file in files.items()}}
    ignore = ("input", "tokenizer", "output")
    return build(config.output, "tokens", config, inputs, make, version=VERSION, ignore=ignore)


def _pack(
    config: ConversationsConfig,
    files: Mapping[str, Path],
    tokenizer: Tokenizer,
    writers: Mapping[str, TokenWriter],
    report: Callable[[float], None],
) -> dict[str, int]:
    template = tokenizer.chat_template
    counts: Counter[str] = Counter(truncated=0, without_loss=0)
    for line in _lines(files, config.validation_share):
        if template is None or not template.marks_generation(line.tools is not None):
            raise UserError(
                f"{config.tokenizer} has no chat template with a {{% generation %}} block for {line.place}, so it is "
                "not known which tokens carry loss; add one to its tokenizer_config.json"
            )
        try:
            ids, mask = template.encode_chat(tokenizer, line.messages, tools=line.tools)
        except UserError as error:
            raise UserError(f"{line.place}: {error}") from error
        counts["truncated"] += len(ids) > config.context
        kept = slice(-config.context, None) if config.truncate == "left" else slice(config.context)
        ids, mask = ids[kept], mask[kept]
        if any(mask[1:]):  # the first token is never a target
            text_bytes = sum(len((message.get("content") or "").encode()) for message in line.messages)
            writers[line.split].add(ids, text_bytes, mask)
        else:
            counts["without_loss"] += 1
        report(line.bytes_read)
    return dict(counts)


def _files(path: Path) -> dict[str, Path]:
    """Split -> file. A lone file is for training; a share of it is held out."""
    if path.is_file():
        return {"train": path}
    files: dict[str, Path] = {split: path / f"{split}.jsonl" for split in SPLITS if (path / f"{split}.jsonl").is_file()}
    if "train" not in files:
        raise UserError(f"{path} is neither a file of conversations nor a folder with train.jsonl; name one")
    return files


def _lines(files: Mapping[str, Path], validation_share: float) -> Iterator[_Line]:
    done = 0
    for split, path in files.items():
        number = 0
        with path.open("rb") as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                done += len(raw)
                place = f"{path} line {number}"
                if len(raw) > MAX_LINE_BYTES:
                    raise UserError(f"{place} is longer than {MAX_LINE_BYTES} bytes; split the conversation")
                if raw.strip():
                    messages, tools = _parse(raw, place)
                    held_out = len(files) == 1 and is_held_out(messages, validation_share)
                    yield _Line(messages, tools, "validation" if held_out else split, place, done)


def _parse(raw: bytes, place: str) -> tuple[list[dict[str, Any]], Any]:
    """Messages and tools; an empty list of tools is none."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not valid JSON in UTF-8 ({error}); correct or remove it") from error
    if not isinstance(value, dict) or "messages" not in value:
        raise UserError(f'{place} is not an object with "messages"; correct or remove it')
    try:
        return check_messages(value["messages"]), value.get("tools") or None
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def is_held_out(messages: list[dict[str, Any]], share: float = VALIDATION_SHARE) -> bool:
    """Whether a conversation of a lone file is held out: by its contents, so equal ones are always on the same side."""
    return int(digest_of(messages)[:16], 16) < share * 2**64
