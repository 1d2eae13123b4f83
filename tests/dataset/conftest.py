"""A packed corpus of several shards and packed conversations, with a tokenizer of bytes and a few merges."""

import json
from pathlib import Path
from typing import Any

import pytest
from dataset_samples import TEXTS, conversation

from fromzero.artifact import Artifact, build
from fromzero.corpus.document import Document
from fromzero.corpus.storing import DocumentWriter
from fromzero.dataset import PackConfig, pack
from fromzero.dataset.conversations import ConversationsConfig, pack_conversations
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.chat import CHATML

MERGES = [(111, 114), (119, 256), (257, 100)]  # or, wor, word
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    def fill(folder: Path) -> dict[str, Any]:
        for split, texts in TEXTS.items():
            with DocumentWriter(folder, split) as writer:
                for i, text in enumerate(texts):
                    writer.write(Document(f"{split}{i}", text, "a.txt", "", "en", {}))
        return {"characters": {split: sum(map(len, texts)) for split, texts in TEXTS.items()}}

    return build(tmp_path_factory.mktemp("made") / "corpus", "corpus", {}, {}, fill)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tokenizer"
    specials = {token: 259 + i for i, token in enumerate(SPECIALS)}
    BPETokenizer(byte_vocabulary(MERGES), MERGES, "fromzero", specials, {"bos_token": "<|endoftext|>"}, CHATML).save(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return load_tokenizer(tokenizer_folder)


@pytest.fixture(scope="session")
def packed(corpus: Artifact, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    output = tmp_path_factory.mktemp("made") / "tokens"
    return pack(PackConfig(corpus.path, tokenizer_folder, output, shard_tokens=300))


@pytest.fixture(scope="session")
def chats(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("made")
    (folder / "train.jsonl").write_text("".join(json.dumps({"messages": conversation(i)}) + "\n" for i in range(45)))
    (folder / "validation.jsonl").write_text(json.dumps({"messages": conversation(100), "id": 7}) + "\n\n")
    config = ConversationsConfig(folder, tokenizer_folder, folder / "tokens", context=400, shard_tokens=1000)
    return pack_conversations(config)
