"""`fromzero convert --quantize`: a model with its matrices in few bits, as an artifact that opens like every model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fromzero import artifact
from fromzero.artifact import Artifact, digest_source
from fromzero.corpus import read_corpus
from fromzero.corpus.encoding import decode
from fromzero.errors import UserError
from fromzero.inference.quantize.model import Method, QuantizeConfig, quantize_model
from fromzero.inference.retrieval import SUFFIXES
from fromzero.interop import load_any
from fromzero.interop.convert import ConvertConfig, write_folder
from fromzero.interop.download import find_model
from fromzero.interop.huggingface import Model
from fromzero.model.counts import parameter_count
from fromzero.tokenizer import Tokenizer, load_tokenizer

WINDOW = 512
"""Tokens of calibration text that go through the model together."""
Measure = Callable[[Model, Tokenizer, list[str]], float | None]


@dataclass(frozen=True)
class QuantizedConvertConfig(ConvertConfig):
    """What becomes what."""

    quantize: Literal["int4", "int8"] | None = None
    """Matrices in so many bits; the token table and the output matrix always in 8. Writes a folder for fromzero."""
    method: Method = "rtn"
    """rtn: each weight to the nearest. gptq, awq: nearer, with calibration text and minutes instead of seconds."""
    group: int = 32
    """Weights that share a scale: 32, 64 or 128; more is smaller and less exact."""
    calibration: Path | None = None
    """Text like that which the model is to read: a file, a folder of text files, or a corpus."""
    calibration_tokens: int = 16_384
    """How much of it is used."""
    evaluate: Path | None = None
    """Other text (of a corpus: its held-out side) to measure bits per byte on, before and after."""


def convert_quantized(config: QuantizedConvertConfig, measure: Measure) -> Artifact:
    """Write the model in few bits; the summary has sizes, errors by layer, and bits per byte as `measure` finds them.

    Raises UserError for what can't be read or quantised.
    """
    if config.format != "huggingface":
        raise UserError("--quantize writes a folder for fromzero; for llama.cpp give --format gguf --dtype q4_1 alone")
    source, texts = find_model(config.source), [config.calibration, config.evaluate]
    inputs = {"model": digest_source(source)} | {
        f"text{i}": digest_source(text) for i, text in enumerate(texts) if text
    }
    return artifact.build(
        config.output,
        "model",
        config,
        inputs,
        lambda folder: _make(config, source, folder, measure),
        ignore=("source", "output", "calibration", "evaluate"),
    )


def _make(config: QuantizedConvertConfig, source: Path, folder: Path, measure: Measure) -> Mapping[str, Any]:
    model, tokenizer = load_any(source).eval(), load_tokenizer(source)
    held_out = read_texts(config.evaluate, "validation") if config.evaluate else []
    summary: dict[str, Any] = {"parameters": parameter_count(model, model.config), "source_bytes": _bytes(source)}
    if held_out:
        summary["source_bits_per_byte"] = measure(model, tokenizer, held_out)
    calibration = read_texts(config.calibration, "train") if config.calibration else []
    length = min(WINDOW, model.config.context)
    ids_NT = windows(tokenizer, calibration, length, config.calibration_tokens) if calibration else None
    settings = QuantizeConfig(4 if config.quantize == "int4" else 8, config.method, config.group)
    layers = quantize_model(model, settings, None if config.method == "rtn" else ids_NT)
    write_folder(model, source, config, folder)
    if held_out:
        summary["bits_per_byte"] = measure(model, tokenizer, held_out)
    return summary | {"bytes": _bytes(folder), "layers": layers}


def windows(tokenizer: Tokenizer, texts: list[str], length: int, tokens: int) -> Tensor:
    """The first tokens of some texts, (N, length) ids. Raises UserError when they don't fill one window."""
    ids: list[int] = []
    for text in texts:
        ids += [tokenizer.end_of_text, *tokenizer.encode_ordinary(text)]
        if len(ids) >= tokens:
            break
    count = min(len(ids), tokens) // length
    if not count:
        raise UserError(f"{len(ids)} tokens of calibration text are too few; give {length} or more")
    return torch.tensor(ids[: count * length]).view(count, length)


def read_texts(path: Path, side: Literal["train", "validation"]) -> list[str]:
    """Texts of a file, of a folder's text files, or of one side of a corpus. Raises UserError when there are none."""
    if artifact.is_artifact(path):
        return [document.text for document in read_corpus(artifact.open_artifact(path, "corpus").path, side)]
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise UserError(f"{path}: no such text; name a file, or a folder with files {', '.join(SUFFIXES)}, or a corpus")
    try:
        return [decode(file.read_bytes()) for file in files]
    except ValueError as error:
        raise UserError(f"{path} holds something else than text: {error}") from error


def _bytes(path: Path) -> int:
    """Of a model's weights."""
    return sum(file.stat().st_size for file in (path.glob("*.safetensors") if path.is_dir() else [path]))
