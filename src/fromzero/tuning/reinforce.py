"""`fromzero align reinforce`: REINFORCE (Williams 1992), the plainest way to learn from rewards.

The model answers, each answer gets a reward, and what did better than the mean becomes likelier: the gradient of
-(R - mean R) log p(answer). Each answer is learned from once, by the model that gave it, so nothing needs a ratio, a
bound or a second model. All of it is in `policy.Policy`; what GRPO adds is in `grpo`.
"""

from dataclasses import dataclass
from typing import Any

from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.tuning.policy import Policy
from fromzero.tuning.practice import PracticeConfig, practise


@dataclass(frozen=True, kw_only=True)
class ReinforceConfig(PracticeConfig):
    """What is practised, and how."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollouts.updates > 1:
            raise UserError(
                "REINFORCE learns once from each answer: set rollouts.mini_batches and rollouts.epochs to 1"
            )


def align_reinforce(config: ReinforceConfig) -> Artifact:
    """Train a model on its own answers, by their rewards; skipped when up to date, resumed when it was cut off."""

    def make_policy(model: Any, config: ReinforceConfig) -> Policy:
        return Policy(model, config.rollouts.temperature, "token", config.rollouts.max_tokens)

    return practise(config, make_policy, "reinforce")
