"""A small corpus in four scripts, and a tokenizer trained on it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fromzero.artifact import Artifact, build
from fromzero.corpus.document import Document
from fromzero.corpus.storing import DocumentWriter
from fromzero.tokenizer import Tokenizer, TokenizerConfig, bpe, load_tokenizer, train_tokenizer

ENGLISH = (
    "The quick brown fox doesn't jump over 12345 lazy dogs; it's 2024.\n\n    def f(x):\n        return x + 1\n"
    + str(json.__doc__)
)
CHINESE = "从零开始训练一个语言模型。我们先读文档，再训练分词器，最后训练模型！\n"
MakeCorpus = Callable[..., Artifact]


@pytest.fixture(scope="session")
def make_corpus() -> MakeCorpus:
    """A corpus artifact from (language, text) pairs for each split."""

    def make(folder: Path, train: list[tuple[str, str]], validation: list[tuple[str, str]]) -> Artifact:
        def fill(output: Path) -> dict[str, Any]:
            for split, texts in (("train", train), ("validation", validation)):
                with DocumentWriter(output, split) as writer:
                    for i, (language, text) in enumerate(texts):
                        writer.write(Document(f"{split}{i}", text, "a.txt", "", language, {}))
            return {
                "characters": {"train": sum(len(t) for _, t in train), "validation": sum(len(t) for _, t in validation)}
            }

        return build(folder, "corpus", {"texts": [train, validation]}, {}, fill)

    return make


@pytest.fixture(scope="session")
def corpus(make_corpus: MakeCorpus, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    train = [("en", ENGLISH), ("zh", CHINESE)] * 20 + [
        ("ar", "السلام عليكم ورحمة الله\n" * 5),
        ("th", "ภาษาไทยเป็นภาษาที่สวยงาม " * 5),
    ]
    return make_corpus(tmp_path_factory.mktemp("made") / "corpus", train, [("en", ENGLISH), ("zh", CHINESE)])


@pytest.fixture(scope="session")
def trained(corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    output = tmp_path_factory.mktemp("made") / "tokenizer"
    return train_tokenizer(TokenizerConfig(corpus.path, output, vocab_size=512))


@pytest.fixture(scope="session")
def tokenizer(trained: Artifact) -> Tokenizer:
    return load_tokenizer(trained.path)


@pytest.fixture(scope="session", autouse=True)
def kernels_from_the_start() -> Iterator[None]:
    """Short texts are encoded plainly before the kernels are started; here the kernels are what is tested."""
    short, bpe.SHORT = bpe.SHORT, -1
    yield
    bpe.SHORT = short
