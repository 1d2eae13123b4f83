"""A model on disk -> an engine that answers."""

from pathlib import Path
from typing import Any

from fromzero import artifact
from fromzero.device import DeviceName, pick_device, pick_dtype
from fromzero.errors import UserError
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.interop.adapters import check_base
from fromzero.interop.download import find_model
from fromzero.interop.huggingface import load_any, put_on
from fromzero.interop.weights import read_json
from fromzero.model import EncoderDecoder
from fromzero.tokenizer import Tokenizer, load_tokenizer


def check_model(folder: Path) -> Path:
    """Verify a model that fromzero made; one of another program has no manifest and is read as it is.

    Returns its folder or GGUF file on this machine: a downloaded model may be given by its name.
    """
    if artifact.is_artifact(folder := find_model(folder)):
        artifact.open_artifact(folder, "model")
    return folder


def open_engine(
    model: Path, device: DeviceName = "auto", config: EngineConfig | None = None, adapters: Path | None = None
) -> Engine:
    """The engine of a model folder, a GGUF file or a downloaded model by its name, and of the draft model in `config`.

    adapters: a folder of those that the model is to have.
    Raises UserError for what is no model, is damaged, writes no text, or drafts other tokens.
    """
    folder, place, config = check_model(model), pick_device(device), config or EngineConfig()
    dtype = pick_dtype(config.dtype, place)
    opened: Any = load_any(folder, dtype=None if adapters else dtype)
    if adapters:
        check_base(adapters, folder)
        put_on(opened, adapters, dtype)
    opened = opened.to(place).eval()
    if not isinstance(opened, EncoderDecoder) and opened.config.kind != "decoder":
        raise UserError(f"{model} holds an {opened.config.kind}, which writes no text; name a decoder")
    tokenizer = load_tokenizer(folder)
    if config.draft is None:
        return Engine(opened, tokenizer, config)
    if load_tokenizer(smaller := check_model(config.draft)).tokens != tokenizer.tokens:
        raise UserError(f"{config.draft} has another tokenizer than {model}; a draft model must have the same")
    draft: Any = load_any(smaller, dtype=dtype).to(place).eval()
    return Engine(opened, tokenizer, config, draft)


def start_id(model: Path, tokenizer: Tokenizer) -> int:
    """The id that answers of an encoder-decoder begin with."""
    settings = read_json(find_model(model) / "config.json")
    return int(settings.get("decoder_start_token_id", tokenizer.end_of_text))
