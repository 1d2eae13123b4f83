"""Learning rates and batch sizes as pure functions of the step, counted from 0, and runs measured in tokens."""

import math
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from typing import Any

from fromzero.dataset.position import check_share
from fromzero.errors import UserError
from fromzero.training.settings import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step: linear warm-up, then the schedule's share of the highest rate."""
    warmup = min(config.warmup_steps, config.steps)
    share = (step + 1) / warmup if step < warmup else _SHARES[config.schedule](step, config)
    return config.learning_rate * share


def cosine(step: int, config: TrainConfig) -> float:
    """Half a cosine from 1 to the final share, over the steps after the warm-up (Loshchilov and Hutter 2017)."""
    half = 0.5 * (1 + math.cos(math.pi * _progress(step, config)))
    return config.final_learning_rate + (1 - config.final_learning_rate) * half


def linear(step: int, config: TrainConfig) -> float:
    """A line from 1 to the final share, over the steps after the warm-up."""
    return 1 - (1 - config.final_learning_rate) * _progress(step, config)


def warmup_stable_decay(step: int, config: TrainConfig) -> float:
    """1, then in the last `decay_share` of all steps a line down to the final share (Hu et al. 2024)."""
    decay_steps = max(1, round(config.decay_share * config.steps))
    progress = max(0.0, (step - (config.steps - 1 - decay_steps)) / decay_steps)
    return 1 - (1 - config.final_learning_rate) * min(1.0, progress)


def inverse_sqrt(step: int, config: TrainConfig) -> float:
    """Square root of the last step of the warm-up over this one (Vaswani et al. 2017, eq. 3); it has no end."""
    return math.sqrt(max(1, config.warmup_steps) / max(1, config.warmup_steps, step + 1))


def constant(step: int, config: TrainConfig) -> float:
    """1."""
    return 1.0


_SHARES = {
    "cosine": cosine,
    "linear": linear,
    "wsd": warmup_stable_decay,
    "inverse_sqrt": inverse_sqrt,
    "constant": constant,
}


def _progress(step: int, config: TrainConfig) -> float:
    """Share of the way from the first step after the warm-up to the last."""
    return min(1.0, (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps))


def batch_size(step: int, config: TrainConfig) -> int:
    """Sequences in a step: from batch_size_start to batch_size in multiples of the former, each for equally long.

    It does not depend on the number of processes, which have to divide batch_size_start.
    """
    start, over = config.batch_size_start, config.batch_warmup_steps
    if start is None or step >= over:
        return config.batch_size
    return start * (1 + step * (config.batch_size // start - 1) // over)


def sequences(steps: int, config: TrainConfig) -> int:
    """Sequences in so many first steps."""
    growing = min(steps, config.batch_warmup_steps) if config.batch_size_start else 0
    return sum(batch_size(step, config) for step in range(growing)) + (steps - growing) * config.batch_size


def in_steps(config: TrainConfig, length: int) -> TrainConfig:
    """The same with `tokens` and `warmup_tokens` as the steps that they suffice for, of sequences of that length.

    Raises UserError when batch_size_start does not divide batch_size.
    """
    if config.batch_size_start and config.batch_size % config.batch_size_start:
        raise UserError(
            f"batch_size_start ({config.batch_size_start}) does not divide batch_size ({config.batch_size}); change one"
        )

    def steps(tokens: int) -> int:
        growing = Growing(None, config)
        return max(1, growing.steps(tokens // length))

    made = config if config.tokens is None else replace(config, steps=steps(config.tokens), tokens=None)
    return (
        made
        if made.warmup_tokens is None
        else replace(made, warmup_steps=steps(made.warmup_tokens), warmup_tokens=None)
    )


class Growing:
    """A loader whose batches grow as `batch_size` says; which step it is at follows from its position."""

    def __init__(self, loader: Any, config: TrainConfig) -> None:
        """loader: None for `steps` alone. Raises UserError when ranks can't share the first batches evenly."""
        self.loader, self.config = loader, config
        growing = config.batch_warmup_steps if config.batch_size_start else 0
        if config.batch_size_start and loader is not None:
            share = loader.context, loader.rank, loader.world_size
            check_share(config.batch_size_start, *share, name="batch_size_start")
        self.ends = list(accumulate(batch_size(step, config) for step in range(growing)))
        """Sequences dealt after each of the steps whose batches still grow."""

    def steps(self, dealt: int) -> int:
        """Whole steps in so many sequences."""
        after = dealt - (self.ends[-1] if self.ends else 0)
        return bisect_right(self.ends, dealt) if after < 0 else len(self.ends) + after // self.config.batch_size

    def next_batch(self) -> Any:
        """The loader's next batch, of the size that it has by now."""
        self.loader.batch_size = batch_size(self.steps(self.loader.position), self.config)
        return self.loader.next_batch()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)
