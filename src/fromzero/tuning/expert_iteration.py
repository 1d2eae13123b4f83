"""`fromzero align expert-iteration`: answer many times, keep what is right, learn it, begin again.

No advantages and no wrong answers: the loss is that of instruction tuning, on the model's own right answers (STaR,
Zelikman et al. 2022, without hints; ReST-EM, Singh et al. 2023).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fromzero.artifact import Artifact
from fromzero.model.linear_loss import IGNORE
from fromzero.parallel import Fleet
from fromzero.parallel.fleet import Batch
from fromzero.tuning.policy import Policy
from fromzero.tuning.practice import PracticeConfig, practise
from fromzero.tuning.rollouts import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class ExpertIterationConfig(PracticeConfig):
    """What is practised, and how."""

    rollouts: RolloutConfig = field(default_factory=lambda: RolloutConfig(mini_batches=4))
    """How answers are made."""
    good: float = 1.0
    """Lowest score of an answer that is learned."""


class Experts(Policy):
    """-log p of answers that are good enough; the others carry no loss."""

    def __init__(self, model: Any, config: ExpertIterationConfig) -> None:
        super().__init__(model, config.rollouts.temperature, "token", config.rollouts.max_tokens)
        self.good = config.good

    def extend(self, rows: Batch, fleet: Fleet) -> Mapping[str, Tensor]:
        good_B1 = (rows["scores_B"] >= self.good)[:, None]
        targets_BT = rows["targets_BT"].masked_fill(~good_B1, IGNORE)
        return {"targets_BT": targets_BT, "advantages_BT": torch.ones_like(targets_BT, dtype=torch.float32)}


def align_expert_iteration(config: ExpertIterationConfig) -> Artifact:
    """Train a model on its own right answers; skipped when up to date, resumed when it was cut off."""
    return practise(config, Experts, "expert")
