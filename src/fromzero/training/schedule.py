"""Learning rates as pure functions of the step: (step, TrainConfig) -> the rate of that step, counted from 0."""

import math

from fromzero.training.settings import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step: linear warm-up, then the schedule's share of the highest rate."""
    warmup = min(config.warmup_steps, config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = cosine if config.schedule == "cosine" else warmup_stable_decay
    return config.learning_rate * share(step, config)


def cosine(step: int, config: TrainConfig) -> float:
    """Half a cosine from 1 to the final share, over the steps after the warm-up (Loshchilov and Hutter 2017)."""
    span = max(1, config.steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    return config.final_learning_rate + (1 - config.final_learning_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_stable_decay(step: int, config: TrainConfig) -> float:
    """1, then in the last `decay_share` of all steps a line down to the final share (Hu et al. 2024)."""
    decay_steps = max(1, round(config.decay_share * config.steps))
    progress = max(0.0, (step - (config.steps - 1 - decay_steps)) / decay_steps)
    return 1 - (1 - config.final_learning_rate) * min(1.0, progress)
