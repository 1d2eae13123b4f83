"""What is minimised when one answer is preferred to another: a family of functions of the answers' log-probabilities.

log p(y|x), of an answer y to a prompt x, is summed over the tokens of y, in nats, under the model that learns and under
the reference, the model that it started from; the log-ratio is their difference. P pairs; P2: chosen, rejected.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

PairLoss = Literal["sigmoid", "robust", "hinge", "ipo", "orpo", "simpo"]


def sigmoid_loss(delta_P: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigma(beta delta), (P,); delta: log-ratio of chosen less rejected (DPO, Rafailov et al. 2023, equation 7).

    label_smoothing: the chance e that the sides of a pair are swapped, for -(1-e) log sigma(b d) - e log sigma(-b d)
    (cDPO, Mitchell 2023).
    """
    right_P, wrong_P = F.logsigmoid(beta * delta_P), F.logsigmoid(-beta * delta_P)
    return -(1 - label_smoothing) * right_P - label_smoothing * wrong_P


def robust_loss(delta_P: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """(-(1-e) log sigma(b d) + e log sigma(-b d)) / (1-2e), (P,): its mean over pairs of which the share e, below 1/2,
    is swapped is what sigmoid_loss would be without swapped ones (Chowdhury et al. 2024, equation 11).
    """
    right_P, wrong_P = F.logsigmoid(beta * delta_P), F.logsigmoid(-beta * delta_P)
    return ((label_smoothing - 1) * right_P + label_smoothing * wrong_P) / (1 - 2 * label_smoothing)


def hinge_loss(delta_P: Tensor, beta: float) -> Tensor:
    """relu(1 - beta delta), (P,) (SLiC, Zhao et al. 2023)."""
    return F.relu(1 - beta * delta_P)


def ipo_loss(delta_P: Tensor, beta: float) -> Tensor:
    """(delta - 1 / (2 beta))^2, (P,) (Azar et al. 2023, equation 17, whose tau is beta).

    The paper's delta is of sums over tokens; its authors' code and TRL take means over tokens, OpenRLHF sums. A beta
    for the one means nothing for the other.
    """
    return (delta_P - 1 / (2 * beta)).square()


def orpo_loss(mean_P2: Tensor, beta: float) -> Tensor:
    """-m_c - beta log sigma(log odds(m_c) - log odds(m_r)), (P,) (Hong et al. 2024, equations 6 and 7).

    mean: m, log p per token, below 0, with odds(m) = e^m / (1 - e^m). The first part is that of tuning on the chosen
    answers alone, each with the same weight (in TRL, each token with the same, and those of the prompt too).
    """
    log_odds_P2 = mean_P2 - (-mean_P2.clamp(max=-1e-6).expm1()).log()  # odds of what is certain have no end
    return -mean_P2[:, 0] - beta * F.logsigmoid(log_odds_P2[:, 0] - log_odds_P2[:, 1])


def simpo_loss(mean_P2: Tensor, beta: float, margin: float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigma(beta (m_c - m_r) - margin), (P,), of log p per token (Meng et al. 2024, equation 6)."""
    return sigmoid_loss(mean_P2[:, 0] - mean_P2[:, 1] - margin / beta, beta, label_smoothing)


def kto_loss(
    ratio_B: Tensor, good_B: Tensor, kl: Tensor | float, beta: float, weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """1 - sigma(+-beta (log-ratio - KL)), + for good answers, (B,) (Ethayarajh et al. 2024, equations 7 and 8).

    weights: of good and of bad answers; good weight x their number should be 1 to 4/3 times bad weight x theirs.
    """
    weight_B = good_B * weights[0] + ~good_B * weights[1]
    return weight_B * (1 - ((good_B * 2 - 1) * beta * (ratio_B - kl)).sigmoid())


def kl_estimate(total: float, count: float) -> float:
    """KTO's KL(model | reference): the mean log-ratio of answers to other prompts, from its total, but at least 0."""
    return max(0.0, total / (count or 1))


def preference_loss(
    kind: PairLoss,
    policy_P2: Tensor,
    reference_P2: Tensor,
    tokens_P2: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    margin: float = 1.0,
    per_token: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of each pair (P,), and the rewards that it implies (P, 2), without gradient.

    policy, reference: summed log-probabilities; tokens: how many of each answer. per_token: log-ratios are means over
    tokens; None: those of ipo are. orpo and simpo always take means, and have no reference.
    """
    if kind in ("orpo", "simpo"):
        score_P2 = policy_P2 / tokens_P2
        loss_P = orpo_loss(score_P2, beta) if kind == "orpo" else simpo_loss(score_P2, beta, margin, label_smoothing)
        return loss_P, beta * score_P2.detach()
    means = kind == "ipo" if per_token is None else per_token
    score_P2 = (policy_P2 - reference_P2) / (tokens_P2 if means else 1)
    delta_P = score_P2[:, 0] - score_P2[:, 1]
    if kind in ("hinge", "ipo"):
        loss_P = hinge_loss(delta_P, beta) if kind == "hinge" else ipo_loss(delta_P, beta)
    else:
        loss_P = (sigmoid_loss if kind == "sigmoid" else robust_loss)(delta_P, beta, label_smoothing)
    return loss_P, beta * score_P2.detach()
