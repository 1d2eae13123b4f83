"""Parameters, arithmetic and memory of a model that is not there: it is built on the `meta` device, of shapes alone.

And of a training that has not begun: its memory, time and cost, here or on other hardware.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fromzero.console import human_count, human_seconds
from fromzero.device import DTYPES, pick_device, pick_dtype
from fromzero.errors import UserError, nearest
from fromzero.interop.download import find_model
from fromzero.interop.huggingface import open_stored
from fromzero.model import PRESETS, ModelConfig
from fromzero.model.counts import flops_per_token, parameter_count
from fromzero.parallel.config import DIMENSIONS
from fromzero.training import PretrainConfig
from fromzero.training.cost import (
    Hardware,
    ThisMachine,
    activation_bytes,
    estimate_run,
    meta_model,
    named_hardware,
    used_memory,
)
from fromzero.training.depth import dial
from fromzero.training.objectives import objective_kind, row_length
from fromzero.training.schedule import in_steps, sequences

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
    recipe: Path | None = None
    """A recipe, or the settings of pretrain in a YAML file: what this training takes in memory, time and money."""
    stage: str = ""
    """Stage of the recipe; empty takes the first that pretrains."""
    hardware: str = ""
    """What it would train on, as in h100 or h100x8; empty measures this machine."""
    price: float | None = None
    """Of a device and hour, in any currency; null takes the training's own."""

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


def estimate_training(plan: PretrainConfig, vocab_size: int, hardware: str, price: float | None) -> dict[str, str]:
    """What a training takes of each device, in time and in money, by name; hardware, price: see EstimateConfig.

    Raises UserError for hardware that isn't known and for sizes of `parallel` that don't fit it.
    """
    model, train = dial(plan.model, plan.train, vocab_size)
    shape = model.with_vocab(vocab_size)
    length = row_length(objective_kind(train, shape), shape)
    train = in_steps(train, length)
    devices, dtype, program = _devices(plan, hardware)
    price = train.price if price is None else price
    found = estimate_run(shape, train, plan.parallel, devices, dtype, price, program)
    tokens = sequences(train.steps, train) * length
    figures = {f"memory of a device, {name}": f"{human_count(size)}B" for name, size in found.memory.items() if size}
    figures["memory of a device, at most"] = f"{human_count(found.peak)}B"
    figures["of what it has"] = f"{found.peak / devices.memory:.0%}"
    figures["tokens"] = human_count(tokens)
    figures["FLOPs"] = f"{tokens * flops_per_token(meta_model(shape), shape):.3g}"
    figures["time of a step"] = f"{found.step_seconds:.3g} s"
    figures["tokens a second"] = human_count(tokens / train.steps / found.step_seconds)
    figures["time of all"] = human_seconds(found.seconds)
    return figures | ({} if found.cost is None else {"cost": f"{found.cost:,.2f}"})


def _devices(plan: PretrainConfig, hardware: str) -> tuple[Hardware, torch.dtype, float]:
    """Devices, compute dtype, and bytes of the program."""
    if hardware:
        return named_hardware(hardware), DTYPES.get(plan.train.dtype, torch.bfloat16), 0.0
    device = pick_device(plan.train.device)
    ranks = math.prod(max(1, getattr(plan.parallel, name)) for name in DIMENSIONS)
    return ThisMachine(device, ranks), pick_dtype(plan.train.dtype, device), used_memory(device)


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
