"""What a run will take, before it begins: memory of a device, time of a step, time and price of all of them.

Memory is counted from the shape, and the optimizer's from its own states, on the `meta` device. Time comes from a
short probe where this machine will train, and from the figures of data sheets where a named one will.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from fromzero.console import human_count, human_seconds, say, table
from fromzero.device import matmul_flops, peak_memory_bytes, resident_memory_bytes, total_memory_bytes
from fromzero.errors import UserError, nearest
from fromzero.model import ModelConfig, Transformer
from fromzero.model.counts import flops_per_token, parameter_count
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.linear_loss import BLOCK_BYTES
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.training.objective import NextToken
from fromzero.training.optimizers import make_optimizer
from fromzero.training.schedule import sequences
from fromzero.training.settings import TrainConfig

EXPECTED_MFU = 0.4
"""Of a data sheet's FLOP/s: Llama 3 (2024, table 4) reached 0.38 to 0.43."""
STEP_BYTES = 28
"""Of a parameter, that AdamW moves in fp32: weight, gradient and two moments in, all but the gradient out."""

PROBE_LAYERS, PROBE_SECONDS = 4, 0.05
"""What is measured: so many layers, with rows for about so long a pass over one."""


class Speed(NamedTuple):
    """Seconds of one device for the whole model: forward and backward of one window, and the optimizer's step."""

    row: float
    update: float


@dataclass(frozen=True)
class DataSheet:
    """A named device: dense FLOP/s of products, bytes and bytes/s of its memory."""

    bfloat16: float
    float32: float
    memory: float
    bandwidth: float
    devices: int = 1

    def speed(self, shape: ModelConfig, train: TrainConfig, rows: int, dtype: torch.dtype) -> Speed:
        """By the data sheet and what is usually reached of it; what ranks tell each other is in that share."""
        model = meta_model(shape)
        peak = self.float32 if dtype == torch.float32 else self.bfloat16
        again = 4 / 3 if train.recompute == "full" else 1.0
        row = shape.context * flops_per_token(model, shape) * again / (peak * EXPECTED_MFU)
        return Speed(row, STEP_BYTES * parameter_count(model, shape) / self.bandwidth)


HARDWARE = {
    "t4": DataSheet(65e12, 8.1e12, 16e9, 320e9),  # fp16: it has no bf16
    "v100": DataSheet(125e12, 15.7e12, 32e9, 900e9),  # the same
    "a10g": DataSheet(70e12, 31.2e12, 24e9, 600e9),
    "l40s": DataSheet(362e12, 91.6e12, 48e9, 864e9),
    "rtx3090": DataSheet(71e12, 35.6e12, 24e9, 936e9),
    "rtx4090": DataSheet(165e12, 82.6e12, 24e9, 1008e9),
    "a100-40gb": DataSheet(312e12, 19.5e12, 40e9, 1555e9),
    "a100": DataSheet(312e12, 19.5e12, 80e9, 2039e9),
    "h100": DataSheet(989e12, 67e12, 80e9, 3350e9),
    "h200": DataSheet(989e12, 67e12, 141e9, 4800e9),
    "b200": DataSheet(2250e12, 75e12, 180e9, 7700e9),
    "mi300x": DataSheet(1307e12, 163e12, 192e9, 5300e9),
}
"""From the vendors' data sheets, without sparsity; what it costs is asked of the user."""


def named_hardware(name: str) -> DataSheet:
    """'h100' or, eight of them, 'h100x8'. Raises UserError for one that isn't in the table."""
    kind, _, count = name.lower().rpartition("x")
    if name.lower() in HARDWARE or not re.fullmatch("[0-9]{1,6}", count):
        kind, count = name.lower(), "1"
    if kind not in HARDWARE or not int(count):
        raise UserError(f"hardware '{name}' is not known; write h100 or h100x8{nearest(kind, HARDWARE)}")
    return replace(HARDWARE[kind], devices=int(count))


class ThisMachine:
    """The device at hand, measured."""

    def __init__(self, device: torch.device, devices: int = 1) -> None:
        """devices: how many like it there are."""
        self.device, self.devices = device, devices
        cuda = device.type == "cuda"
        self.memory = float(torch.cuda.mem_get_info(device)[1] if cuda else total_memory_bytes() / devices)

    def speed(self, shape: ModelConfig, train: TrainConfig, rows: int, dtype: torch.dtype) -> Speed:
        """Of one and of a few layers, for a second or so; the difference is what further ones take."""
        decoder = replace(shape, kind="decoder", predict_ahead=0)
        single, few = replace(decoder, layers=1), replace(decoder, layers=min(PROBE_LAYERS, shape.layers))
        arithmetic = shape.context * flops_per_token(meta_model(single), single)
        rows = max(1, min(rows, int(PROBE_SECONDS * matmul_flops(dtype, self.device.type) / arithmetic)))
        try:
            one, more = (self._measured(part, train, rows, dtype) for part in (single, few))
        except torch.OutOfMemoryError:  # where the run shares what one device can't hold
            flops = EXPECTED_MFU * matmul_flops(dtype, self.device.type)
            return Speed(shape.context * flops_per_token(meta_model(shape), shape) / flops, 0.0)
        further = (shape.layers - few.layers) / max(1, few.layers - 1)
        aside = flops_per_token(meta_model(shape), shape) / flops_per_token(meta_model(decoder), decoder)
        return Speed(*(aside * (b + further * max(0.0, b - a)) for a, b in zip(one, more, strict=True)))

    def _measured(self, shape: ModelConfig, train: TrainConfig, rows: int, dtype: torch.dtype) -> Speed:
        """The best of two steps after a first. Draws nothing from torch's generators."""
        with torch.random.fork_rng():
            model = Transformer(shape, compute_dtype=dtype).to(self.device).train()
            fleet = parallelize(NextToken(model), ParallelConfig(), World(self.device), train.recompute)
            optimizer = make_optimizer(fleet.named_parameters(), train)
            ids = torch.randint(0, shape.vocab_size, (rows, shape.context))
            times = []
            for _ in range(3):
                started = self._now()
                fleet.gradients({"ids_BT": ids, "targets_BT": ids}, None, ids.numel())
                between = self._now()
                optimizer.step()
                times.append((between - started, self._now() - between))
                optimizer.zero_grad(set_to_none=True)
        computed, updated = (min(column) for column in zip(*times[1:], strict=True))
        return Speed(computed / rows, updated)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


Hardware = DataSheet | ThisMachine


@dataclass(frozen=True)
class Estimate:
    """What a run takes."""

    memory: Mapping[str, float]
    """Bytes on a device by what they are for."""
    peak: float
    """The most of them at once: as the backward pass goes on, gradients take the room of activations."""
    steps: int
    step_seconds: float
    look_seconds: float
    """All looks at held-out data."""
    cost: float | None

    @property
    def seconds(self) -> float:
        """All together."""
        return self.steps * self.step_seconds + self.look_seconds

    def say(self) -> None:
        """Two lines for the person."""
        parts = ", ".join(f"{name} {human_count(size)}B" for name, size in self.memory.items() if size)
        say(f"estimate: {human_count(self.peak)}B of memory on a device ({parts})")
        money = "" if self.cost is None else f", at a cost of {self.cost:,.2f}"
        say(f"estimate: {_duration(self.step_seconds)} a step, {_duration(self.seconds)} in all{money}")

    def compare(self, peak: float, step_seconds: float, seconds: float, began: int = 0) -> dict[str, float]:
        """Print it beside what was measured, of a run that began at some step; the errors as shares of the latter."""
        pairs = {
            "memory": (self.peak, peak, lambda size: f"{human_count(size)}B"),
            "step": (self.step_seconds, step_seconds, _duration),
            "total": (self.seconds * (1 - began / self.steps), seconds, _duration),
        }
        errors = {name: guess / max(found, 1e-9) - 1 for name, (guess, found, _) in pairs.items()}
        rows = [(n, show(g), show(f), f"{errors[n]:+.0%}") for n, (g, f, show) in pairs.items()]
        table("what it took", ("", "estimated", "measured", "error"), rows, " rrr")
        return errors


def estimate_run(
    shape: ModelConfig,
    train: TrainConfig,
    parallel: ParallelConfig,
    hardware: Hardware,
    dtype: torch.dtype,
    price: float | None = None,
    program: float = 0.0,
) -> Estimate:
    """For a shape with its vocabulary. price: of a device and hour. program: bytes that are taken before there is a
    model. Raises UserError when the sizes of `parallel` don't fit the number of devices.
    """
    sizes = parallel.sizes(hardware.devices)
    ranks = sizes["replicate"] * sizes["shard"]
    rows = max(1, train.batch_size // ranks)
    micro = min(train.micro_batch_size or rows, rows)
    memory = {"program": program, **memory_bytes(shape, train, sizes, micro, dtype)}
    spared = min(memory["gradients"], memory["activations"]) if micro == rows else 0.0
    speed = hardware.speed(shape, train, micro, dtype)
    split = sizes["tensor"] * sizes["pipeline"]
    mean = sequences(train.steps, train) / train.steps / ranks  # batches may grow
    step = mean * speed.row / (split * sizes["context"]) + speed.update / (split * sizes["shard"])
    looks = 1 + -(-train.steps // train.validate_every)
    looking = looks * train.validation_tokens * speed.row / 3 / shape.context
    cost = None if price is None else price * hardware.devices * (train.steps * step + looking) / 3600
    return Estimate(memory, sum(memory.values()) - spared, train.steps, step, looking, cost)


def memory_bytes(
    shape: ModelConfig, train: TrainConfig, sizes: Mapping[str, int], rows: int, dtype: torch.dtype
) -> dict[str, float]:
    """Bytes on one device, by what they are for; rows: of a micro-batch; sizes: of the dimensions of the mesh.

    Weights, gradients and optimizer states are exact on one device, and divided evenly on several.
    """
    model = meta_model(shape)
    optimizer = make_optimizer(model.named_parameters(), train)
    optimizer.allocate()
    states = (value for state in optimizer.state.values() for value in state.values())
    held = sum(value.nbytes for value in states if isinstance(value, torch.Tensor))
    parameters, inner = parameter_count(model, shape), parameter_count(model, shape, embeddings=False)
    parts = sizes["shard"] * sizes["tensor"] * sizes["pipeline"]
    tokens = rows * shape.context / sizes["context"]
    layer = inner / shape.layers
    copied = 0.0 if dtype == torch.float32 else dtype.itemsize * layer / parts
    activations = activation_bytes(shape, dtype, train.recompute)
    if train.recompute == "none":
        copied *= shape.layers
    else:  # one layer at a time is worked out again
        activations += activation_bytes(replace(shape, layers=1, encoder_layers=1), dtype)
    gathered = dtype.itemsize * (2 * layer + parameters - inner) / sizes["tensor"] if sizes["shard"] > 1 else 0.0
    return {
        "weights": 4 * parameters / parts,
        "gradients": 4 * parameters / parts,
        "optimizer": held / parts,
        f"copies in {str(dtype).removeprefix('torch.')}": copied,
        "gathered": gathered,
        "activations": tokens * activations / sizes["tensor"],  # a pipeline has as many micro-batches under way
        "loss": 4 * shape.vocab_size * shape.width / sizes["tensor"]
        + 3 * BLOCK_BYTES
        + tokens * shape.width * dtype.itemsize,
    }


def activation_bytes(shape: ModelConfig, dtype: torch.dtype = torch.bfloat16, recompute: str = "none") -> float:
    """What all layers keep of one token for the backward pass.

    Of each layer 4 D (both sums and their norms), queries and attention's output 2 H C, keys and values 2 K C, and of
    the feed-forward layer 2 F, or 4 F with a gate (after Korthikanti et al. 2022, section 4.1; attention keeps no
    scores and the loss no logits). Each active expert counts, with its input and output, 2 D. With full recomputation
    it keeps its input D, with selective also what products make that are not narrower than what goes into them.
    """
    width, heads = shape.width, shape.heads * shape.head_size
    keys = 2 * shape.key_value_heads * shape.head_size
    if latent := shape.latent:  # keys and values of all heads are made of the vectors that a cache would keep
        keys = heads + shape.heads * latent.value_width + 2 * latent.kv_rank + 2 * (latent.query_rank or 0)
    products, around = (2 if shape.gated else 1) * shape.ffn_size, 0
    if experts := shape.experts:
        products = 2 * (experts.active * (experts.width or shape.ffn_size) + experts.shared)
        around = 2 * experts.active * width
    layers, cross = shape.layers, 0
    if shape.kind == "encoder_decoder":
        layers += shape.encoder_layers or shape.layers
        cross = shape.layers * (2 * width + 2 * heads + keys)
    layer = {
        "none": 4 * width + 2 * heads + keys + 2 * products + around,
        "selective": 2 * width + 2 * heads + (keys if keys >= 2 * width else 0) + products,
        "full": width,
    }[recompute]
    return dtype.itemsize * (layers * layer + (0 if recompute == "full" else cross))


def meta_model(shape: ModelConfig) -> Transformer | EncoderDecoder:
    """A model of shapes alone."""
    with torch.device("meta"):
        return EncoderDecoder(shape) if shape.kind == "encoder_decoder" else Transformer(shape)


def used_memory(device: torch.device) -> float:
    """Bytes that this process has taken; on a CPU the allocator keeps what a step has freed for the next one."""
    return float(peak_memory_bytes(device) if device.type == "cuda" else resident_memory_bytes())


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 60 else human_seconds(seconds)
