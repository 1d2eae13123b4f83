"""Losses of tokens that a model drew itself, how far it has moved, and what they are divided by.

Pure functions on tensors: B answers, T tokens, True in `mask_BT` where a token was drawn by the model and carries loss.
Losses are per token; `token_weights` and `loss_count` say what their weighted sum is divided by, so that neither the
size of micro-batches nor the number of ranks changes anything.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Normalizer = Literal["sequence", "token", "constant"]
"""sequence: mean over answers of the means of their tokens (GRPO, eq. 3). token: mean over all tokens of the batch, of
all ranks (DAPO, eq. 8; the same as BNPO's, whose batch is what a device computes at once). constant: sum over tokens
by answers times the longest that an answer may be (Dr. GRPO, as TRL has it). Answers without loss do not count."""
Level = Literal["token", "sequence"]
Divergence = Literal["k1", "k2", "k3"]
MOST = 20.0  # of a log-ratio, before exp: what a rare token of another model must not make infinite (as in verl)


def log_ratios(new_BT: Tensor, old_BT: Tensor, mask_BT: Tensor, level: Level = "token") -> Tensor:
    """log of p_new / p_old of each token (B, T); level sequence: its mean over the answer, at each of its tokens.

    A mean, not a sum: the ratio does not depend on the length (GSPO, Zheng et al. 2025, eq. 7).
    """
    ratios_BT = (new_BT - old_BT) * mask_BT
    if level == "sequence":
        ratios_BT = (ratios_BT.sum(1, keepdim=True) / mask_BT.sum(1, keepdim=True).clamp(min=1)).expand_as(mask_BT)
    return ratios_BT.clamp(-MOST, MOST)


def clipped_loss(
    ratios_BT: Tensor, advantages_BT: Tensor, low: float = 0.2, high: float = 0.2, dual: float | None = None
) -> tuple[Tensor, Tensor]:
    """max(-A r, -A clip(r, 1 - low, 1 + high)) of each token, and where the clipped one was taken, (B, T) both.

    ratios: logarithms, as `log_ratios` gives them. PPO's (Schulman et al. 2017, eq. 7), with bounds of their own (DAPO,
    eq. 10). dual: where A < 0, at most -A dual, above 1 (Ye et al. 2020, eq. 5; verl takes 3).
    """
    ratio_BT = ratios_BT.exp()
    plain_BT, bound_BT = -advantages_BT * ratio_BT, -advantages_BT * ratio_BT.clamp(1 - low, 1 + high)
    loss_BT = torch.maximum(plain_BT, bound_BT)
    if dual is not None:
        loss_BT = torch.where(advantages_BT < 0, torch.minimum(loss_BT, -advantages_BT * dual), loss_BT)
    return loss_BT, bound_BT > plain_BT


def kl_divergence(new_BT: Tensor, reference_BT: Tensor, kind: Divergence = "k3") -> Tensor:
    """An estimate, from each drawn token, of KL(new || reference) (Schulman 2020, "Approximating KL divergence").

    With k1 = log p_new - log p_ref: k1 itself; k2 = k1^2 / 2; k3 = exp(-k1) + k1 - 1. As a loss, k1 has no gradient on
    average; k1 is for rewards, k2 has the gradient of KL, k3 is GRPO's (eq. 4).
    """
    k1_BT = (new_BT - reference_BT).clamp(-MOST, MOST)
    if kind == "k1":
        return k1_BT
    return 0.5 * k1_BT.square() if kind == "k2" else torch.expm1(-k1_BT) + k1_BT


def sampler_weights(trainer_BT: Tensor, sampled_BT: Tensor, mask_BT: Tensor, most: float = 3.0) -> Tensor:
    """min(p_trainer / p_sampler, most) of each token: what drew it may have computed otherwise (Yao et al. 2025)."""
    return log_ratios(trainer_BT.detach(), sampled_BT, mask_BT).exp().clamp(max=most)


def token_weights(mask_BT: Tensor, normalizer: Normalizer) -> Tensor:
    """What each token's loss is multiplied by before all are added up, (B, T) in fp32."""
    weights_BT = mask_BT.float()
    return weights_BT / mask_BT.sum(1, keepdim=True).clamp(min=1) if normalizer == "sequence" else weights_BT


def loss_count(mask_BT: Tensor, normalizer: Normalizer, longest: int) -> float:
    """What that sum is divided by, when it is added up over micro-batches and ranks. longest: tokens of an answer."""
    if normalizer == "token":
        return float(mask_BT.sum())
    return float(mask_BT.any(1).sum()) * (longest if normalizer == "constant" else 1)


def value_loss(values_BT: Tensor, old_BT: Tensor, returns_BT: Tensor, clip: float | None = 0.2) -> Tensor:
    """0.5 max((V - R)^2, (V_clipped - R)^2) of each token, V within old +- clip; None: not clipped.

    As in OpenAI's baselines and TRL's PPO: the larger of the two, so that a step beyond the bound earns nothing.
    """
    loss_BT = (values_BT - returns_BT).square()
    if clip is not None:
        within_BT = torch.clamp(values_BT, old_BT - clip, old_BT + clip)
        loss_BT = torch.maximum(loss_BT, (within_BT - returns_BT).square())
    return 0.5 * loss_BT


@dataclass
class Penalty:
    """The weight of the divergence: fixed, or led towards a target of the divergence (Ziegler et al. 2019, 2.2)."""

    value: float = 0.05
    target: float | None = None
    """Nats of an answer; None: the value stays."""
    horizon: int = 10_000
    """Answers over which it adapts."""

    def update(self, divergence: float, answers: int) -> None:
        """After so many answers with this mean divergence: value *= 1 + clip(kl / target - 1, +-0.2) n / horizon."""
        if self.target is not None:
            error = min(0.2, max(-0.2, divergence / self.target - 1))
            self.value *= 1 + error * answers / self.horizon

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints, as trainer.parts keeps them."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.value = float(state["value"])
