"""`fromzero align ppo`: proximal policy optimization, with values, and rewards that a model has learned or code gives.

What is expected of an answer is said, token by token, by a head on the policy itself; it is taken off at the end. The
answer's reward is that of its last token, and each token costs by how far it diverges from the model at the start.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from fromzero.artifact import Artifact
from fromzero.inference.opening import check_model
from fromzero.model.adapters import adapters
from fromzero.model.heads import HeadConfig, HeadedTransformer
from fromzero.tuning.policy_losses import Penalty
from fromzero.tuning.ppo_objective import Ppo, PpoLoss
from fromzero.tuning.practice import PracticeConfig, practise
from fromzero.tuning.reward import RewardModel
from fromzero.tuning.rollouts import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class PpoConfig(PracticeConfig):
    """What is practised, and how."""

    rollouts: RolloutConfig = field(default_factory=lambda: RolloutConfig(answers=1, epochs=4))
    """How answers are made; one to each prompt is enough where values say what was to be expected."""
    reward: Path | None = None
    """Folder of a reward model, made by `fromzero align reward`; null: what checks the tasks gives rewards."""
    loss: PpoLoss = field(default_factory=PpoLoss)
    """What is made of rewards."""


def align_ppo(config: PpoConfig) -> Artifact:
    """Train a model on its own answers; skipped when up to date, resumed when it was cut off, in a rollout too."""
    return practise(config, make_policy, "ppo", {"reward": config.reward and check_model(config.reward)})


def make_policy(model: Any, config: PpoConfig) -> Ppo:
    """The policy with values, which are 0 at first, and the model that it must stay close to."""
    headed = HeadedTransformer.on(model, HeadConfig(classes=1, per_token=True), config.train.seed)
    assert headed.classifier is not None
    nn.init.zeros_(headed.classifier.weight)
    penalty = Penalty(config.loss.penalty, config.loss.target, config.loss.horizon)
    policy = Ppo(headed, config.rollouts, config.loss, penalty, config.train)
    if config.reward is not None:
        policy.rewards = RewardModel.open(config.reward, config.train.device)
    if next(adapters(model), None) is None:
        policy.frozen = (copy.deepcopy(model).eval().requires_grad_(False),)
    return policy
