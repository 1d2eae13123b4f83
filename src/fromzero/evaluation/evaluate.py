"""`fromzero evaluate perplexity`: a model on the held-out documents of a corpus, beside the baselines."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fromzero import artifact
from fromzero.artifact import Artifact
from fromzero.console import progress
from fromzero.corpus import read_corpus
from fromzero.device import DeviceName, DtypeName, pick_device, pick_dtype
from fromzero.evaluation import baselines
from fromzero.evaluation.perplexity import DocumentScore, score_documents, summarize
from fromzero.files import write_json
from fromzero.interop import load_model
from fromzero.tokenizer import Tokenizer, load_tokenizer

VERSION = 2


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated on what."""

    model: Path
    """Folder of a model."""
    corpus: Path
    """Folder of a corpus; its validation split is held out from training."""
    output: Path
    """Folder for the scores."""
    baselines: bool = True
    """Also measure a unigram model, gzip, zstd and xz on the same text."""
    max_bytes: int = 1_000_000
    """Stop after the document that reaches this many bytes; the standard error says whether that is enough."""
    batch_tokens: int = 8192
    """Tokens scored at once."""
    device: DeviceName = "auto"
    """Where the model runs."""
    dtype: DtypeName = "float32"
    """Compute dtype; auto is faster on some machines and less exact."""


def evaluate(config: EvaluationConfig) -> Artifact:
    """Score the held-out documents and write `scores.json`: the model's figures and the baselines'."""
    model, corpus = artifact.open_artifact(config.model, "model"), artifact.open_artifact(config.corpus, "corpus")
    return artifact.build(
        config.output,
        "evaluation",
        config,
        {"model": model.digest, "corpus": corpus.digest},
        lambda folder: _evaluate(dataclasses.replace(config, model=model.path, corpus=corpus.path), folder),
        version=VERSION,
        ignore=("model", "corpus", "output", "device", "batch_tokens"),
    )


def _evaluate(config: EvaluationConfig, folder: Path) -> Mapping[str, Any]:
    device = pick_device(config.device)
    model = load_model(config.model, pick_dtype(config.dtype, device)).to(device)
    tokenizer = load_tokenizer(config.model)
    texts = held_out_texts(config.corpus, config.max_bytes)
    total = sum(len(t.encode()) for t in texts)
    scores: list[DocumentScore] = []
    done = 0
    with progress("scoring held-out documents", total, "B") as report:
        for score in score_documents(model, tokenizer, texts, config.batch_tokens):
            scores.append(score)
            done += score.bytes
            report(done)
    found = summarize(scores)
    result: dict[str, Any] = {"model": dataclasses.asdict(found)}
    if config.baselines:
        result["baselines"] = measure_baselines(
            config.corpus, tokenizer, texts, None if found.changed else found.spelled
        )
    write_json(folder / "scores.json", result)
    return result


def held_out_texts(corpus: Path, max_bytes: int) -> list[str]:
    """Texts of the validation split, up to the document that reaches `max_bytes`."""
    texts, size = [], 0
    for document in read_corpus(corpus, "validation"):
        texts.append(document.text)
        size += len(document.text.encode())
        if size >= max_bytes:
            break
    return texts


def measure_baselines(corpus: Path, tokenizer: Tokenizer, texts: list[str], spelled: int | None) -> dict[str, float]:
    """Bits per byte of each baseline on these texts; those that learn see the end of the training split.

    spelled: bytes that spell the unknown tokens of the texts; None leaves the unigram model out, which needs tokens.
    """
    held_out = "\n\n".join(texts).encode()
    train_texts: deque[str] = deque()
    size = 0
    for document in read_corpus(corpus, "train"):
        train_texts.append(document.text)
        size += len(document.text.encode())
        while len(train_texts) > 1 and size > baselines.PRIMING_BYTES:
            size -= len(train_texts.popleft().encode())
    train = "\n\n".join(train_texts).encode()
    with ThreadPoolExecutor() as threads:  # compressors let go of the interpreter's lock
        zstd = threads.submit(baselines.zstd_bits_per_byte, train, held_out)
        xz = threads.submit(baselines.xz_bits_per_byte, train, held_out)
        return {
            **({} if spelled is None else {"unigram": _unigram(tokenizer, train_texts, texts, spelled)}),
            "gzip": baselines.gzip_bits_per_byte(held_out),
            "zstd": zstd.result(),
            "xz": xz.result(),
        }


def _unigram(tokenizer: Tokenizer, train_texts: Iterable[str], texts: list[str], spelled: int) -> float:
    counts = np.zeros(tokenizer.vocab_size)
    for text in train_texts:
        counts += np.bincount(tokenizer.encode_array(text), minlength=tokenizer.vocab_size)
    text_bytes = sum(len(text.encode()) for text in texts)
    held_out = (tokenizer.encode_array(text) for text in texts)
    return baselines.unigram_bits_per_byte(counts, held_out, text_bytes) + 8 * spelled / text_bytes
