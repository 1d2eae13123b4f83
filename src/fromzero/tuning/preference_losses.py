"""What is minimised when one answer is preferred to another: a family of functions of the answers' log-probabilities.

Of a prompt x and an answer y, log p(y|x) is summed over the tokens of y, in nats, under the model that learns and under
the reference, the model that it started from; their difference is the log-ratio. P pairs, B answers.
"""

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

PairLoss = Literal["sigmoid", "robust", "hinge", "ipo", "orpo", "simpo"]


class Sides(NamedTuple):
    """A number of the chosen and of the rejected answer of each pair."""

    chosen_P: Tensor
    rejected_P: Tensor

    def __sub__(self, other: "Sides") -> "Sides":
        return Sides(self.chosen_P - other.chosen_P, self.rejected_P - other.rejected_P)

    def __truediv__(self, other: "Sides") -> "Sides":
        return Sides(self.chosen_P / other.chosen_P, self.rejected_P / other.rejected_P)

    @property
    def gap(self) -> Tensor:
        """chosen - rejected."""
        return self.chosen_P - self.rejected_P


class Weighed(NamedTuple):
    """Losses of pairs, and the rewards that they imply, without gradient."""

    loss_P: Tensor
    rewards: Sides


def sigmoid_loss(delta_P: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigma(beta delta), (P,); delta: difference of log-ratios (DPO, Rafailov et al. 2023, equation 7).

    label_smoothing: the chance that the sides of a pair are swapped, -(1-e) log sigma(bd) - e log sigma(-bd) (cDPO,
    Mitchell 2023).
    """
    right_P, wrong_P = F.logsigmoid(beta * delta_P), F.logsigmoid(-beta * delta_P)
    return -(1 - label_smoothing) * right_P - label_smoothing * wrong_P


def robust_loss(delta_P: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """The loss whose mean over swapped sides is that of right ones (Chowdhury et al. 2024, equation 11), (P,).

    (-(1-e) log sigma(bd) + e log sigma(-bd)) / (1-2e) where e, below 1/2, is the chance that sides are swapped.
    """
    right_P, wrong_P = F.logsigmoid(beta * delta_P), F.logsigmoid(-beta * delta_P)
    return ((label_smoothing - 1) * right_P + label_smoothing * wrong_P) / (1 - 2 * label_smoothing)


def hinge_loss(delta_P: Tensor, beta: float) -> Tensor:
    """relu(1 - beta delta), (P,) (SLiC, Zhao et al. 2023)."""
    return F.relu(1 - beta * delta_P)


def ipo_loss(delta_P: Tensor, beta: float) -> Tensor:
    """(delta - 1 / (2 beta))^2, (P,) (Azar et al. 2023, equation 17, whose tau is beta).

    The paper's delta is of sums over tokens; its authors and TRL take that of means over tokens, OpenRLHF that of sums.
    Values of beta for the one mean nothing for the other.
    """
    return (delta_P - 1 / (2 * beta)).square()


def orpo_loss(mean: Sides, beta: float) -> Tensor:
    """-m_c - beta log sigma(log odds(m_c) - log odds(m_r)), (P,) (Hong et al. 2024, equations 6 and 7).

    mean: m, log p per token of the answer, below 0, and odds(m) = e^m / (1 - e^m). The first part is that of tuning on
    the chosen answer alone, each answer with the same weight; there is no reference.
    """
    return -mean.chosen_P - beta * F.logsigmoid(_log_odds(mean.chosen_P) - _log_odds(mean.rejected_P))


def _log_odds(mean_P: Tensor) -> Tensor:
    """m - log(1 - e^m); certain answers count as 1 - e^-1e-6, as their odds have no end."""
    return mean_P - (-mean_P.clamp(max=-1e-6).expm1()).log()


def simpo_loss(mean: Sides, beta: float, margin: float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigma(beta (m_c - m_r) - margin), (P,), of log p per token, without a reference (Meng et al. 2024)."""
    return sigmoid_loss(mean.gap - margin / beta, beta, label_smoothing)


def kto_loss(
    ratio_B: Tensor, good_B: Tensor, kl_B: Tensor | float, beta: float, weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Of answers that are good or bad by themselves (B,): 1 - sigma(+-beta (ratio - KL)), + for good ones.

    ratio: log-ratio; kl: see `kl_estimate`; weights: of good and of bad answers, which should balance their numbers:
    (good weight x good answers) / (bad weight x bad answers) from 1 to 4/3 (Ethayarajh et al. 2024, eq. 7 and 8).
    """
    sign_B = good_B.to(ratio_B.dtype) * 2 - 1
    weight_B = good_B.to(ratio_B.dtype) * (weights[0] - weights[1]) + weights[1]
    return weight_B * (1 - (sign_B * beta * (ratio_B - kl_B)).sigmoid())


def kl_estimate(total: float, count: float) -> float:
    """KTO's estimate of KL(model | reference): the mean log-ratio of answers to other prompts, at least 0."""
    return max(0.0, total / (count or 1))


def preference_loss(
    kind: PairLoss,
    policy: Sides,
    reference: Sides,
    tokens: Sides,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    margin: float = 0.5,
    per_token: bool | None = None,
) -> Weighed:
    """The loss of each pair, of summed log-probabilities and numbers of tokens; see the functions above.

    per_token: log-ratios are means over tokens; None: for ipo they are, for sigmoid, robust and hinge they are sums.
    The reference does not count for orpo and simpo, which always take means.
    """
    if kind in ("orpo", "simpo"):
        mean = policy / tokens
        loss_P = orpo_loss(mean, beta) if kind == "orpo" else simpo_loss(mean, beta, margin, label_smoothing)
        return _weighed(loss_P, mean, beta)
    ratio = policy - reference
    if kind == "ipo" if per_token is None else per_token:
        ratio = ratio / tokens
    delta_P = ratio.gap
    if kind == "sigmoid":
        return _weighed(sigmoid_loss(delta_P, beta, label_smoothing), ratio, beta)
    if kind == "robust":
        return _weighed(robust_loss(delta_P, beta, label_smoothing), ratio, beta)
    return _weighed(hinge_loss(delta_P, beta) if kind == "hinge" else ipo_loss(delta_P, beta), ratio, beta)


def _weighed(loss_P: Tensor, scores: Sides, beta: float) -> Weighed:
    return Weighed(loss_P, Sides(*((beta * score_P).detach() for score_P in scores)))
