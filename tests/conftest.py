"""A whole small chain of real stages, made once: documents -> corpus -> tokenizer -> tokens."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from fromzero.corpus import CorpusConfig, build_corpus
from fromzero.dataset import PackConfig, pack
from fromzero.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer, train_tokenizer

# Tests run in several processes on few cores; threads on top of that only get in each other's way. Set before any child
# starts, so that commands run by tests follow it too.
os.environ["OMP_NUM_THREADS"] = "1"
# It looks at this when it is imported, be it by other programs that tests run beside ours.
os.environ.setdefault("TRACKIO_DIR", tempfile.mkdtemp(prefix="trackio-"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of what only a GPU does."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


_WORDS = [
    "river",
    "mountain",
    "cloud",
    "forest",
    "stone",
    "letter",
    "window",
    "garden",
    "silver",
    "morning",
    "winter",
    "quiet",
    "bright",
    "slowly",
]


@dataclass(frozen=True)
class Chain:
    """Folders of finished stages, and the tokenizer."""

    folder: Path
    documents: Path
    corpus: Path
    tokenizer_folder: Path
    tokens: Path
    tokenizer: Tokenizer


def sentences(seed: int, count: int) -> str:
    """Repeatable sentences with some structure to learn."""
    random = Random(seed)
    lines = []
    for _ in range(count):
        a, b, c = random.sample(_WORDS, 3)
        lines.append(f"The {a} near the {b} is {c}. Nobody saw the {a} today, but the {b} remembers it.")
    return "\n".join(lines)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    documents = folder / "documents"
    documents.mkdir()
    for number in range(24):
        text = f"# Story {number}\n\n{sentences(number, 20)}\n\n{sentences(100 + number, 10)}\n"
        (documents / f"story{number:02d}.md").write_text(text, encoding="utf-8")
    corpus, tokenizer_folder, tokens = folder / "corpus", folder / "tokenizer", folder / "tokens"
    build_corpus(CorpusConfig(inputs=(documents,), output=corpus, validation=0.15, workers=1))
    train_tokenizer(TokenizerConfig(corpus=corpus, output=tokenizer_folder, vocab_size=320))
    pack(PackConfig(corpus=corpus, tokenizer=tokenizer_folder, output=tokens))
    return Chain(folder, documents, corpus, tokenizer_folder, tokens, load_tokenizer(tokenizer_folder))


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of conversations whose answers follow a rule."""
    folder = tmp_path_factory.mktemp("conversations")
    for split, numbers in (("train", range(60)), ("validation", range(60, 70))):
        lines = [
            {
                "messages": [
                    {"role": "user", "content": f"Where is story {n}?"},
                    {"role": "assistant", "content": f"Story {n} is in room {n % 3}."},
                ],
                "kind": "room",
                "expected": [f"{n % 3}"],
            }
            for n in numbers
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


RunCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def command() -> RunCommand:
    """Run `fromzero ...` as a user does, in a process of its own."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "fromzero", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, **options)  # type: ignore[call-overload,no-any-return]

    return run


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The same for this process, where torch may be loaded already."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(chain: Chain) -> Path:
    """A model pretrained for a moment on the chain's tokens."""
    from fromzero.model import ModelConfig
    from fromzero.training import PretrainConfig, TrainConfig, pretrain

    output = chain.folder / "base"
    train = TrainConfig(
        steps=60,
        batch_size=8,
        learning_rate=1e-2,
        warmup_steps=5,
        validate_every=30,
        validation_tokens=2048,
        dtype="float32",
    )
    model = ModelConfig(layers=1, width=32, heads=2, context=64)
    pretrain(PretrainConfig(tokens=chain.tokens, output=output, model=model, train=train, sample_points=1))
    return output


@pytest.fixture(scope="session")
def served_model(chain: Chain) -> Path:
    """A model of random weights with some context."""
    from fromzero.interop.huggingface import save_model
    from fromzero.model import ModelConfig, Transformer

    config = ModelConfig(context=1024, layers=2, width=32, heads=4, kv_heads=2, tied=False)
    folder = chain.folder / "served"
    folder.mkdir(exist_ok=True)
    model = Transformer(config.with_vocab(chain.tokenizer.vocab_size), seed=2)
    end = chain.tokenizer.end_of_text
    save_model(model, folder, chain.tokenizer_folder, {"bos": end, "eos": end})
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server that speaks S3."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an S3 with one empty bucket, called bucket, and a cache for this test alone."""
    import s3fs

    settings = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    settings |= {"AWS_ENDPOINT_URL": s3_server, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    yield system
    system.invalidate_cache()
    system.rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
