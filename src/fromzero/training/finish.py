"""The end of every training: the model's files and its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fromzero.files import write_text
from fromzero.interop import save_model
from fromzero.model import Transformer
from fromzero.model.heads import HeadedTransformer
from fromzero.tokenizer import Tokenizer

_CARD = """---
library_name: {library}
tags: [fromzero]
---
# A language model trained from zero

| | |
|---|---|
| architecture | {family}: {layers} layers, width {width}, {heads} heads, context {context} tokens |
| parameters | {parameters:,} |
| vocabulary | {vocab_size:,} tokens |
| trained on | {tokens:,} tokens in {steps:,} steps |
{figures}
Made with fromzero. `manifest.json` holds the settings, versions and hashes that it was made from; `run/metrics.jsonl`
the figures of its training. {use}
"""

_USE = """{way}, or open the folder with transformers.

It knows only what it was trained on, and makes things up beyond that. Check what it says."""
_USE_CHAT = _USE.format(way="Talk to it with `fromzero chat FOLDER`")
_USE_TEXT = _USE.format(way="Let it go on from a text with `fromzero generate FOLDER`")
_USE_REWARD = "It scores answers, for `fromzero align ppo --reward FOLDER`."
_USE_CLASSES = "Ask it with `fromzero generate FOLDER --classify TEXT`. Its classes: {labels}."
_USE_TUNED = "It does not write text on its own: tune it for a task first."


def finish_model(
    model: Transformer,
    folder: Path,
    tokenizer_folder: Path,
    tokenizer: Tokenizer,
    ends: str | None,
    figures: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the model in the Hugging Face layout with its card; returns the summary.

    ends: the special token that the model was trained to end with; None is the end of a text.
    """
    special = {}
    if tokenizer.end_of_text_token or model.config.kind != "encoder":  # published encoders have none
        eos = tokenizer.special_tokens.get(ends or "", tokenizer.end_of_text)
        special = {"bos": tokenizer.end_of_text, "eos": eos}
    if model.config.kind == "encoder_decoder":
        special |= {"decoder_start": tokenizer.end_of_text, "pad": tokenizer.end_of_text}
    if _labels(model) and model.config.kind == "decoder":
        special |= {"pad": tokenizer.end_of_text}  # or transformers takes one text at a time
    family = save_model(model, folder, tokenizer_folder, special)
    summary = {"architecture": family, "parameters": model.parameter_count(), **figures}
    write_text(folder / "MODEL_CARD.md", _card(model, family, summary, ends is not None))
    return summary


def _labels(model: Transformer) -> tuple[str, ...]:
    return model.heads.labels if isinstance(model, HeadedTransformer) else ()


def _use(model: Transformer, talks: bool) -> str:
    if labels := _labels(model):
        return _USE_CLASSES.format(labels=", ".join(labels))
    if isinstance(model, HeadedTransformer) and model.heads.classes == 1:
        return _USE_REWARD
    return _USE_TUNED if model.config.kind != "decoder" else _USE_CHAT if talks else _USE_TEXT


def _card(model: Transformer, family: str, summary: Mapping[str, Any], talks: bool) -> str:
    config = model.config
    names = {"validation_bits_per_byte": "held-out bits per byte", "validation_loss": "held-out loss, nats per token"}
    lines = [f"| {text} | {summary[name]:.4f} |\n" for name, text in names.items() if name in summary]
    return _CARD.format(
        library="fromzero" if family == "fromzero" else "transformers",
        family=family,
        use=_use(model, talks),
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        context=config.context,
        vocab_size=config.vocab_size,
        figures="".join(lines),
        parameters=summary["parameters"],
        tokens=summary["tokens"],
        steps=summary["steps"],
    )
