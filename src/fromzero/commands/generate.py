"""`fromzero generate MODEL --prompt TEXT`: the text goes to standard output, piece by piece."""

from dataclasses import dataclass, field
from pathlib import Path

from fromzero import artifact
from fromzero.commands import Verb
from fromzero.console import write_stream
from fromzero.device import DeviceName, pick_device
from fromzero.inference import SamplingConfig, generate_text
from fromzero.interop import load_model
from fromzero.interop.download import find_model
from fromzero.tokenizer import load_tokenizer


@dataclass(frozen=True)
class GenerateConfig:
    """What goes on from what."""

    model: Path
    """Folder or GGUF file of a model, or the name of a downloaded one."""
    prompt: str = ""
    """The beginning; empty begins a new document."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How tokens are chosen."""
    device: DeviceName = "auto"
    """Where the model runs."""


def run(config: GenerateConfig) -> None:
    """Write the prompt and what the model makes of it."""
    folder = check_model(config.model)
    model = load_model(folder).to(pick_device(config.device)).eval()
    tokenizer = load_tokenizer(folder)
    write_stream(config.prompt)
    ids = [tokenizer.end_of_text, *tokenizer.encode_ordinary(config.prompt)]
    for piece in generate_text(model, tokenizer, ids, config.sampling, goes_on=bool(config.prompt)):
        write_stream(piece)
    write_stream("\n")


def check_model(folder: Path) -> Path:
    """Verify a model that fromzero made; one of another program has no manifest and is read as it is.

    Returns its folder or GGUF file on this machine: a downloaded model may be given by its name.
    """
    if artifact.is_artifact(folder := find_model(folder)):
        artifact.open_artifact(folder, "model")
    return folder


VERB = Verb(GenerateConfig, run, "model")
