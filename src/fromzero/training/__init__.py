"""Logits -> weights: the training loop and everything it needs.

In: batches of ids and targets, a model, TrainConfig. Out: trained weights, metrics, checkpoints that resume exactly.
Reading order: `settings`, `objective`, `objectives` (of every family), `optimizers`, `schedule` (pure functions of the
step), `checkpoint`, `metrics`, `signals`, `trainer` (the loop), `pretrain` (the stage).
"""

from fromzero.training.optimizers.adam import AdamW
from fromzero.training.pretrain import PretrainConfig, pretrain
from fromzero.training.settings import TrainConfig
from fromzero.training.trainer import Trainer

__all__ = ["AdamW", "PretrainConfig", "TrainConfig", "Trainer", "pretrain"]
