"""The stage that turns conversations into token shards with a loss mask."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from fromzero.artifact import Artifact, build, digest_source, here
from fromzero.console import progress, say
from fromzero.dataset.packing import summarise
from fromzero.dataset.sources import Tally, bring, find_splits, read_conversations
from fromzero.dataset.splits import SHARE, read_splits
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

VERSION = 5


@dataclasses.dataclass(frozen=True)
class ConversationsConfig:
    """How to turn conversations into token shards with a loss mask."""

    input: Path
    """Conversations as OpenAI, ShareGPT or Alpaca have them, or prompts and completions: a file (.jsonl, .json, .csv,
    .tsv, .parquet), a folder with train.jsonl and, if there are held-out ones, validation.jsonl, or hf://org/name."""
    tokenizer: Path
    """A folder with the tokenizer of the model to tune. It needs a chat template."""
    output: Path
    """Folder for the shards."""
    context: int = 1024
    """Tokens of the longest conversation that is kept whole; at most the model's context."""
    truncate: Literal["left", "right"] = "right"
    """Side from which a longer conversation loses tokens: its beginning or its end."""
    loss: Literal["all", "last"] = "all"
    """Which of the assistant's answers carry loss."""
    validation_share: float = SHARE
    """Share of the conversations that is held out, chosen by their prompts, when no held-out ones are given."""
    shard_tokens: int = 100_000_000
    """Tokens in one shard file."""

    def __post_init__(self) -> None:
        if self.context < 2:
            raise UserError(f"context is {self.context}; it should be 2 or more")
        if not 0 <= self.validation_share < 1:
            raise UserError(f"validation_share is {self.validation_share}; it should be 0 or more and below 1")


def pack_conversations(config: ConversationsConfig) -> Artifact:
    """Encode conversations with the tokenizer's chat template; a 'tokens' artifact with a loss mask.

    Its summary: vocab_size, masked, by_answer (conversations in several rows, see ChatTemplate.encode_turns), truncated
    (rows that lost tokens), without_loss (rows dropped, because no token that carries loss was left), dropped (what
    taught nothing, by reason: see dataset.formats), repeated and leaked (see dataset.splits), and for each split the
    documents, tokens, loss_tokens, bytes and bytes per token.
    Raises UserError that names file and line when one can't be read.
    """
    source = here(config.tokenizer)
    digest, path = tokenizer_digest(source), bring(config.input)
    files = find_splits(path)

    def make(folder: Path) -> Mapping[str, Any]:
        tokenizer = load_for_packing(source)
        size = tokenizer.vocab_size
        writers: dict[str, TokenWriter] = {
            split: TokenWriter(folder, split, size, config.shard_tokens, masked=True) for split in SPLITS
        }
        total = sum(file.stat().st_size for split in files.values() for file in split)
        with progress("Packing conversations", total, "bytes") as report:
            counts = _pack(config, path, tokenizer, writers, report)
        splits = {split: writer.close() for split, writer in writers.items()}
        if not splits["train"]["documents"]:
            raise UserError(f"{config.input} holds no conversation to train on; add some")
        copy_tokenizer(source, folder)
        write_index(folder, tokenizer, digest, splits, masked=True)
        return {"vocab_size": size, "masked": True, **counts, **summarise(splits)}

    inputs = {"tokenizer": digest, "conversations": digest_source(path)}
    ignore = ("input", "tokenizer", "output")
    return build(config.output, "tokens", config, inputs, make, version=VERSION, ignore=ignore)


def _pack(
    config: ConversationsConfig,
    path: Path,
    tokenizer: Tokenizer,
    writers: Mapping[str, TokenWriter],
    report: Callable[[float], None],
) -> dict[str, Any]:
    counts: Counter[str] = Counter(truncated=0, without_loss=0, by_answer=0)
    tally = Tally()
    for split, conversation, place in read_splits(path, read_conversations, config.validation_share, tally):
        if tokenizer.chat_template is None:
            raise UserError(f"{config.tokenizer} has no chat template; add one to its tokenizer_config.json")
        messages, learned = conversation.messages, list(conversation.learned)
        if config.loss == "last":
            learned[:-1] = [False] * (len(messages) - 1)
        try:
            rows = tokenizer.chat_template.encode_turns(tokenizer, messages, learned, tools=conversation.tools)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        counts["by_answer"] += len(rows) > 1
        text_bytes = sum(len((message.get("content") or "").encode()) for message in messages)
        for ids, mask in rows:
            counts["truncated"] += len(ids) > config.context
            kept = slice(-config.context, None) if config.truncate == "left" else slice(config.context)
            if any(mask[kept][1:]):  # the first token is never a target
                writers[split].add(ids[kept], text_bytes * len(ids) // len(rows[-1][0]), mask[kept])
            else:
                counts["without_loss"] += 1
        report(tally.bytes)
    tally.tell()
    if counts["by_answer"]:
        say(f"{counts['by_answer']:,} conversations in a row for each answer: their template rewrites earlier answers")
    return {**counts, "dropped": dict(tally.dropped), "repeated": tally.repeated, "leaked": tally.leaked}
