"""PPO's part of a rollout: rewards of tokens, their advantages, and the loss of policy and values together.

The policy and the values share a trunk: the value of what was written so far is a linear layer on the hidden state from
which the next token is predicted (as in Ziegler et al. 2019). B answers, one a row, T tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.model.heads import HeadConfig
from fromzero.model.linear_loss import IGNORE
from fromzero.parallel import Fleet
from fromzero.parallel.fleet import Batch
from fromzero.training.settings import TrainConfig
from fromzero.tuning.advantages import generalized_advantages, whiten
from fromzero.tuning.policy import Policy, measured
from fromzero.tuning.policy_losses import Penalty, clipped_loss, kl_divergence, log_ratios, value_loss
from fromzero.tuning.rollouts import RolloutConfig


@dataclass(frozen=True)
class PpoLoss:
    """What is made of rewards. The defaults are TRL's, but for the divergence, which can be led to a target."""

    clip: float = 0.2
    """How far the probability of a token may go from what it was in the rollout, as a ratio, and still be moved."""
    value_clip: float = 0.2
    """How far a value may go from what it was in the rollout, and still be moved."""
    value_weight: float = 0.1
    """Weight of the value loss beside that of the policy."""
    discount: float = 1.0
    """Of rewards to come, per token."""
    decay: float = 0.95
    """Lambda of GAE: 0 trusts values, 1 what came out."""
    whiten: bool = True
    """Whether the advantages of a rollout get mean 0 and variance 1."""
    penalty: float = 0.05
    """Reward that a nat of divergence from the starting model costs, at the beginning."""
    target: float | None = None
    """Nats of divergence, of a whole answer, that the penalty is led to; null keeps the penalty."""
    horizon: int = 10_000
    """Answers over which the penalty adapts."""

    def __post_init__(self) -> None:
        if not 0 < self.clip < 1 or self.value_clip <= 0 or self.value_weight < 0 or self.penalty < 0:
            raise UserError(
                "loss: clip must be above 0 and below 1, value_clip above 0, weights and penalty at least 0"
            )
        if not 0 < self.discount <= 1 or not 0 <= self.decay <= 1:
            raise UserError("loss: discount must be above 0, decay at least 0, and both at most 1")
        if self.horizon < 1 or (self.target is not None and not (self.target > 0 and self.penalty > 0)):
            raise UserError("loss: target and the penalty that is led to it must be above 0, horizon at least 1")


class Ppo(Policy):
    """What Rollouts deals, with what `experience` adds -> the summed loss of its answers' tokens."""

    def __init__(
        self, model: Any, rollouts: RolloutConfig, config: PpoLoss, penalty: Penalty, train: TrainConfig
    ) -> None:
        """model: a HeadedTransformer with one class per token, the value. train: how many rows go through at once."""
        super().__init__(model, rollouts.temperature, "token", rollouts.max_tokens)
        self.config, self.penalty, self.train_config = config, penalty, train
        self.parts["penalty"] = penalty

    def plain(self, whole: Any) -> Any:
        """Without the value head."""
        whole.classifier, whole.heads = None, HeadConfig()
        return whole

    def extend(self, rows: Batch, fleet: Fleet) -> Mapping[str, Tensor]:
        old_BT, values_BT = measured(fleet, "policy", rows, self.train_config).unbind(-1)
        reference_BT = measured(fleet, "reference", rows, self.train_config)
        return experience(rows, old_BT, values_BT, reference_BT, self.config, self.penalty)

    def forward(self, **batch: Tensor) -> Tensor:
        """The summed loss; measuring "policy": log-probabilities and values, (B, T, 2)."""
        if self.measuring == "reference":
            return super().forward(**batch)
        x_BTD = self.model.hidden(batch["ids_BT"])
        values_BT = self.model.classifier(x_BTD)[..., 0].float()
        new_BT = self.chosen(self.model, x_BTD, batch["targets_BT"])
        if self.measuring:
            return torch.stack((new_BT, values_BT), -1)
        config, mask_BT = self.config, batch["targets_BT"] != IGNORE
        ratios_BT = log_ratios(new_BT, batch["old_BT"], mask_BT)
        policy_BT, clipped_BT = clipped_loss(ratios_BT, batch["advantages_BT"], config.clip, config.clip)
        of_values_BT = value_loss(values_BT, batch["values_BT"], batch["returns_BT"], config.value_clip)
        self._note(new_BT, mask_BT, batch)
        answers, learned, tokens = len(mask_BT), float(mask_BT.any(1).sum()), float(mask_BT.sum())
        self.note(
            answer_kl=(batch["divergences_B"].sum(), learned),
            penalty=(self.penalty.value * answers, answers),
            clipped=((clipped_BT & mask_BT).sum(), tokens),
            value_loss=((of_values_BT.detach() * mask_BT).sum(), tokens),
            explained_variance=(batch["explained_B"].sum(), answers),
        )
        return ((policy_BT + config.value_weight * of_values_BT) * mask_BT).sum() + self._added(batch)


def experience(
    rows: Batch, old_BT: Tensor, values_BT: Tensor, reference_BT: Tensor, config: PpoLoss, penalty: Penalty
) -> dict[str, Tensor]:
    """What a rollout adds to its rows, once: old log-probabilities, values, advantages and returns, (B, T).

    And how far each answer diverges from the reference, and how much of the returns' variance the values explain, (B,).
    The penalty then adapts to the mean divergence.
    """
    mask_BT = rows["targets_BT"] != IGNORE
    k1_BT = kl_divergence(old_BT, reference_BT, "k1") * mask_BT
    rewards_BT = token_rewards(rows["rewards_B"], k1_BT, mask_BT, penalty.value)
    values_BT = values_BT * mask_BT
    gains_BT, returns_BT = generalized_advantages(rewards_BT, values_BT, mask_BT, config.discount, config.decay)
    explained = explained_variance(values_BT[mask_BT], returns_BT[mask_BT])
    divergences_B, learned = k1_BT.sum(1), int(mask_BT.any(1).sum())
    if learned:
        penalty.update(float(divergences_B.sum()) / learned, learned)
    return {
        "old_BT": old_BT,
        "values_BT": values_BT,
        "advantages_BT": whiten(gains_BT, mask_BT) if config.whiten else gains_BT,
        "returns_BT": returns_BT,
        "divergences_B": divergences_B,
        "explained_B": torch.full((len(mask_BT),), explained),
    }


def token_rewards(rewards_B: Tensor, k1_BT: Tensor, mask_BT: Tensor, weight: float) -> Tensor:
    """-weight k1 at each token of the answer, and its reward at the last, (B, T) (Ziegler et al. 2019, eq. 2).

    A row without tokens, and one whose reward is NaN, has none.
    """
    places_T = torch.arange(mask_BT.shape[1])
    last_BT = (places_T == (mask_BT * places_T).amax(1, keepdim=True)) & mask_BT
    return -weight * k1_BT * mask_BT + last_BT * rewards_B.nan_to_num(0.0)[:, None]


def explained_variance(values_N: Tensor, returns_N: Tensor) -> float:
    """1 - Var(R - V) / Var(R): 1 where values say it all, 0 where a constant would do as well, 0 without variance."""
    spread = float(returns_N.var(correction=0)) if len(returns_N) else 0.0
    return 1 - float((returns_N - values_N).var(correction=0)) / spread if spread > 1e-12 else 0.0
