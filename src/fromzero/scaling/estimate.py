"""Parameters, arithmetic and memory of a model that is not there: it is built on the `meta` device, of shapes alone."""

from dataclasses import dataclass, field
from pathlib import Path

from fromzero.errors import UserError, nearest
from fromzero.interop.download import find_model
from fromzero.interop.huggingface import open_stored
from fromzero.model import PRESETS, ModelConfig
from fromzero.model.counts import flops_per_token, parameter_count
from fromzero.training.cost import activation_bytes, meta_model

BITS = {"fp32": 32, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5}
"""Of a weight in a file; llama.cpp's formats share a scale of 16 bits among 32 weights."""
STATE_BYTES = {"weights": 4, "gradients": 4, "optimizer": 8, "copies in bf16": 2}
"""Of a parameter in training: all in fp32 with two moments of AdamW, and what products are computed with."""


@dataclass(frozen=True)
class EstimateConfig:
    """What is estimated."""

    name: str = ""
    """A preset, or the folder, GGUF file or name of a model; empty takes the settings of `model`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Shape of the model, where no name is given."""
    batch_size: int = 8
    """Sequences of full context that a device computes at once."""
    devices: int = 1
    """Devices that share weights, gradients and optimizer states (FSDP)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.devices < 1:
            raise UserError(f"batch_size ({self.batch_size}) and devices ({self.devices}) must be at least 1")
        if self.name and self.model != ModelConfig():
            raise UserError(
                "give a name or settings of model, not both; a preset that is changed is --model.preset NAME"
            )


def estimate(config: EstimateConfig) -> dict[str, float]:
    """Figures by name: numbers of parameters, FLOPs of a token, bytes. Raises UserError for an unknown name."""
    shape = _shape(config)
    model = meta_model(shape)
    parameters, flops = parameter_count(model, shape), flops_per_token(model, shape)
    state = {name: size * parameters / config.devices for name, size in STATE_BYTES.items()}
    activations = config.batch_size * shape.context * activation_bytes(shape)
    figures: dict[str, float] = {
        "parameters": parameters,
        "active for each token": parameter_count(model, shape, active=True),
        "without embeddings": parameter_count(model, shape, embeddings=False),
        "FLOPs per token, training": flops,
        "FLOPs per token, forward": flops / 3,
    }
    figures |= {f"training bytes a device, {name}": size for name, size in state.items()}
    figures["training bytes a device, activations"] = activations
    figures["training bytes a device, sum"] = sum(state.values()) + activations
    figures |= {f"serving bytes, weights in {name}": bits / 8 * parameters for name, bits in BITS.items()}
    if shape.kind != "encoder":
        token = 2 * shape.layers * sum(heads * width for heads, width in shape.cache_shapes)
        figures |= {"cache bytes per token, bf16": token, "cache bytes at full context": token * shape.context}
    return figures


def _shape(config: EstimateConfig) -> ModelConfig:
    if not config.name:
        return config.model.with_depth()
    if config.name in PRESETS:
        return PRESETS[config.name]
    try:
        return open_stored(find_model(Path(config.name))).config
    except UserError as error:
        hint = "" if Path(config.name).exists() else nearest(config.name, PRESETS)
        raise UserError(f"{error}{hint}") from error
