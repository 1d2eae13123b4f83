"""The settings that every kind of training shares."""

import math
from dataclasses import dataclass
from typing import Literal

from fromzero.device import DeviceName, TrainDtype
from fromzero.errors import UserError

# Settings that say how a run is watched and kept, and change nothing about the weights that come out.
_KEPT, _WATCHED = "checkpoint_every keep_checkpoints keep_best", "log_every inspect_every profile_steps track price"
INCIDENTAL = tuple(f"train.{name}" for name in f"{_KEPT} {_WATCHED}".split())


@dataclass(frozen=True)
class TrainConfig:
    """How weights are learned."""

    steps: int = 1000
    """Optimizer steps."""
    tokens: int | None = None
    """In place of steps, for pretraining: tokens to train on."""
    batch_size: int = 16
    """Sequences in one step, on all devices together."""
    batch_size_start: int | None = None
    """For pretraining: sequences in the first steps, from which batches grow to batch_size; null: they are alike."""
    batch_warmup_steps: int = 0
    """Steps over which batches grow."""
    micro_batch_size: int | None = None
    """Sequences that a device computes at once, to fit memory; gradients add up to the whole batch. null computes all
    at once."""
    optimizer: Literal["adamw", "adam", "sgd", "adafactor", "lion", "muon"] = "adamw"
    """What turns gradients into steps; muon steps matrices inside blocks, and adamw everything else."""
    learning_rate: float = 1e-3
    """Highest learning rate."""
    matrix_learning_rate: float = 0.02
    """For muon: highest learning rate of the matrices that it steps."""
    momentum: float = 0.95
    """For sgd and muon, in Nesterov's form."""
    final_learning_rate: float = 0.1
    """Learning rate at the end, as a share of the highest."""
    schedule: Literal["cosine", "linear", "wsd", "inverse_sqrt", "constant"] = "cosine"
    """After the warm-up: a cosine or a line down to the end, stable and then a line (warmup-stable-decay), with the
    inverse square root of the step, or constant."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from zero."""
    warmup_tokens: int | None = None
    """In place of warmup_steps, for pretraining: tokens."""
    decay_share: float = 0.2
    """For wsd: share of the steps in which the rate decays."""
    weight_decay: float = 0.1
    """Weight decay, on matrices only; decoupled, but for sgd and adam, which add it to the gradient."""
    parametrization: Literal["standard", "mup"] = "standard"
    """For pretraining: mup scales weights, rates, attention and logits by the width, so that what is best for a model
    of base_width is best for all widths (Yang et al. 2022)."""
    base_width: int = 256
    """For mup: the width that the settings are for."""
    beta1: float = 0.9
    """AdamW's decay of the average gradient."""
    beta2: float = 0.95
    """AdamW's decay of the average squared gradient; lower than Adam's 0.999 because batches are large and few."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 never scales."""
    seed: int = 0
    """Seed of the weights, of the order of the data and of dropout, each with a generator of its own."""
    validate_every: int = 100
    """Steps between looks at held-out data; also at the start and at the end."""
    validation_tokens: int = 65536
    """Tokens of held-out data that each look takes."""
    checkpoint_every: int = 200
    """Steps between checkpoints; one is also written when a signal asks for a stop."""
    keep_checkpoints: int = 2
    """The newest checkpoints that are kept; the others are deleted."""
    keep_best: bool = False
    """Whether the checkpoint with the lowest held-out loss is kept beside them."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    inspect_every: int = 0
    """Steps between lines with what each layer does: size of its steps, gradients and activations; 0 writes none."""
    profile_steps: int = 0
    """Steps that are recorded operation by operation into run/profile, from the fourth on; 0 records none."""
    track: tuple[Literal["wandb", "trackio"], ...] = ()
    """Where figures are shown besides metrics.jsonl and TensorBoard; WANDB_MODE and TRACKIO_DIR work as always."""
    price: float | None = None
    """What a device costs an hour, in any currency, for figures of cost; null shows none."""
    skip_spikes: bool = False
    """Whether steps whose loss or gradient norm is far above what it was are left out (6 sigma over 128 steps)."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What of each block is worked out again in the backward pass instead of being kept: saves memory, costs time."""
    compile: Literal["auto", "always", "never"] = "never"
    """Whether blocks are compiled by torch.compile; auto tries it and takes it if it works and is faster."""
    objective: Literal["auto", "causal", "prefix", "masked", "spans"] = "auto"
    """What is learned: the next token (decoder), the same after a beginning of random length that sees itself in both
    directions (decoder; T5, section 3.2), hidden tokens (encoder; BERT), or what stood in gaps (encoder_decoder; T5).
    auto: causal, masked or spans, as the model is."""
    ahead_weight: float = 0.3
    """For models that predict further tokens: weight of their mean loss (lambda of DeepSeek-V3, section 4.2)."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """What a row of a batch is: a stretch of the documents one after another, cut anywhere, or whole documents as far
    as they go, each in the row that it fills best, and padding."""
    mask_documents: bool = False
    """Whether tokens see only their own document, with positions that begin anew, where a row has several."""
    device: DeviceName = "auto"
    """Where to train."""
    dtype: TrainDtype = "auto"
    """Compute dtype; auto measures whether bfloat16 is worth it, float16 scales losses, float8 is bfloat16 with the
    linear layers of blocks in 8 bits. Weights and optimizer state are always float32."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "checkpoint_every", "keep_checkpoints", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.micro_batch_size is not None and (self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size):
            raise UserError(
                f"micro_batch_size ({self.micro_batch_size}) does not divide batch_size ({self.batch_size})"
            )
        limits = {
            "tokens": (self.tokens is None or self.tokens >= 1, "at least 1, or null"),
            "warmup_tokens": (self.warmup_tokens is None or self.warmup_tokens >= 0, "at least 0, or null"),
            "batch_size_start": (self.batch_size_start is None or self.batch_size_start >= 1, "at least 1, or null"),
            "batch_warmup_steps": (self.batch_warmup_steps >= 0, "at least 0"),
            "base_width": (self.base_width >= 1, "at least 1"),
            "matrix_learning_rate": (0 < self.matrix_learning_rate < math.inf, "above 0"),
            "momentum": (0 <= self.momentum < 1, "at least 0 and below 1"),
            "validation_tokens": (self.validation_tokens >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "above 0"),
            "final_learning_rate": (0 <= self.final_learning_rate <= 1, "from 0 to 1"),
            "decay_share": (0 < self.decay_share <= 1, "above 0 and at most 1"),
            "warmup_steps": (self.warmup_steps >= 0, "at least 0"),
            "inspect_every": (self.inspect_every >= 0, "at least 0"),
            "profile_steps": (self.profile_steps >= 0, "at least 0"),
            "price": (self.price is None or 0 <= self.price < math.inf, "at least 0"),
            "ahead_weight": (0 < self.ahead_weight < math.inf, "above 0; for none set model.predict_ahead to 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "beta1": (0 <= self.beta1 < 1, "at least 0 and below 1"),
            "beta2": (0 <= self.beta2 < 1, "at least 0 and below 1"),
            "seed": (0 <= self.seed < 2**63, "at least 0 and below 2^63"),
        }
        for name, (fits, rule) in limits.items():
            if not fits:
                raise UserError(f"{name} is {getattr(self, name)}; it must be {rule}")
