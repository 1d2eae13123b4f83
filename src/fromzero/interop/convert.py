"""`fromzero convert`: a model from one format to another, read back and held against what it came from."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.interop.download import find_model
from fromzero.interop.gguf import save_gguf
from fromzero.interop.huggingface import DTYPES, Model, Stored, load_any, open_stored, save_model, unquantized
from fromzero.interop.weights import read_json
from fromzero.model import Transformer
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.tokenizer import load_tokenizer

Numbers = Literal["float32", "bfloat16", "float16", "q8_0", "q4_0", "q4_1"]
_GGUF_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}

# The most that a weight may change, as a share of the largest of its tensor: half a step of the format, and a little
# for scales in float16. q4_0 has no step for one of the two extremes; in fp32, only Gemma's norms change, by rounding.
BOUNDS: dict[Numbers, float] = {
    "float32": 2**-23, "bfloat16": 2**-8, "float16": 2**-11, "q8_0": 1 / 220, "q4_0": 0.127, "q4_1": 0.07
}  # fmt: skip


@dataclass(frozen=True)
class ConvertConfig:
    """What becomes what."""

    source: Path
    """Folder of a model, a GGUF file, or the name of a downloaded model."""
    output: Path
    """New folder, or for gguf, new file."""
    format: Literal["huggingface", "gguf"] = "huggingface"
    """huggingface: a folder that transformers and vLLM open. gguf: a file that llama.cpp runs."""
    dtype: Numbers = "float32"
    """Numbers of the weights; float32 keeps all their digits. The last three are for gguf."""
    shard_gigabytes: float = 5.0
    """huggingface: largest size of a file of weights."""


class Conversion(NamedTuple):
    """How near to its source is what was written."""

    tensors: int
    tensor: str
    """The one that changed most ..."""
    difference: float
    """... and by how much: the largest difference of a weight, as a share of the tensor's largest weight."""
    logits: float
    """The largest difference of the logits of a few tokens."""


def convert(config: ConvertConfig) -> Conversion:
    """Write the model and read it back, one tensor at a time.

    Raises UserError for what can't be read or written, and when a weight came back more different than the numbers of
    the format explain; what was written is kept then.
    """
    if config.output.exists() and (config.output.is_file() or any(config.output.iterdir())):
        raise UserError(f"{config.output} exists already; name a new one")
    source = find_model(config.source)
    model = unquantized(load_any(source)).eval()
    before = _logits(model)
    if config.format == "gguf":
        _write_gguf(model, source, config)
    else:
        write_folder(model, source, config, config.output)
    made = _compared(model, before, open_stored(config.output))
    if not made.difference <= BOUNDS[config.dtype]:
        raise UserError(
            f"{config.output}: '{made.tensor}' came back with a difference of {made.difference:.3g} of its largest "
            f"weight, where {config.dtype} explains {BOUNDS[config.dtype]:.3g}; choose other numbers, such as float32"
        )
    return made


def write_folder(model: Model, source: Path, config: ConvertConfig, output: Path) -> None:
    """Config, weights, tokenizer and generation settings, as the source has them."""
    if config.dtype not in DTYPES:
        raise UserError(f"--dtype {config.dtype} is for --format gguf; choose one of {', '.join(DTYPES)}")
    output.mkdir(parents=True, exist_ok=True)
    if (source / "config.json").is_file():
        settings = read_json(source / "config.json")
    else:
        tokenizer = load_tokenizer(source)
        settings = {f"{name}_id": tokenizer.special_tokens[text] for name, text in tokenizer.roles.items()}
    roles = ("bos", "eos", "pad", "decoder_start")
    ids = {role: settings[f"{role}_token_id"] for role in roles if settings.get(f"{role}_token_id") is not None}
    save_model(model, output, source, ids, DTYPES[config.dtype], int(config.shard_gigabytes * 1e9))
    if (generation := source / "generation_config.json").is_file():
        shutil.copyfile(generation, output / generation.name)


def _write_gguf(model: Model, source: Path, config: ConvertConfig) -> None:
    if config.output.suffix != ".gguf":
        raise UserError(f"--output {config.output} should be a file that ends with .gguf")
    if not isinstance(model, Transformer) or model.config.kind != "decoder":
        raise UserError(f"{config.source} is no decoder, and GGUF files are written for decoders only")
    config.output.parent.mkdir(parents=True, exist_ok=True)
    save_gguf(model, source, config.output, _GGUF_NAMES.get(config.dtype, config.dtype))


@torch.no_grad()
def _compared(model: Model, before: Tensor, stored: Stored) -> Conversion:
    """The differences. The model then has the weights that were read back, so that there is one model at a time."""
    tensors, worst, where = 0, 0.0, ""
    for name, ours, theirs in stored.pairs(model.state_dict()):
        change = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-30))
        if not change <= worst:
            worst, where = (math.inf if math.isnan(change) else change), name
        ours.copy_(theirs)
        tensors += 1
    return Conversion(tensors, where, worst, float((_logits(model) - before).abs().max()))


@torch.no_grad()
def _logits(model: Model) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (1, min(16, model.config.context)), generator=generator)
    return model(ids, ids) if isinstance(model, EncoderDecoder) else model(ids)
