"""How much better an answer, or a token, is than what was expected: what rewards become before they are learned.

Pure functions. G groups (prompts), N answers to each, B answers, T tokens. A reward that is NaN is not known: it is
left out of means and deviations, and the advantage there is 0. Deviations are unbiased (divided by one less than the
count), as TRL's and verl's are.
"""

from typing import Literal

import torch
from torch import Tensor

Advantage = Literal["group_std", "group", "leave_one_out", "batch"]
EPSILON = 1e-4  # TRL's; a group whose rewards are alike has advantages of 0, not 0 / 0


def advantages(rewards_GN: Tensor, kind: Advantage) -> Tensor:
    """(G, N) -> (G, N).

    group_std: (R - mean) / (deviation + 1e-4) of the group (GRPO, Shao et al. 2024, 4.1.2); group: R - mean (Dr. GRPO,
    Liu et al. 2025); leave_one_out: R - mean of the others in the group (RLOO, Ahmadian et al. 2024), 0 for one alone;
    batch: R - mean of its group, over the deviation of all rewards (TRL's scale_rewards="batch").
    """
    known_GN = ~rewards_GN.isnan()
    count_G1 = known_GN.sum(1, keepdim=True)
    centred_GN = (rewards_GN - rewards_GN.nanmean(1, keepdim=True)).nan_to_num(0.0)
    if kind == "leave_one_out":
        return centred_GN * count_G1 / (count_G1 - 1).clamp(min=1)
    if kind == "group_std":
        return centred_GN / (deviation(centred_GN, count_G1, 1) + EPSILON)
    if kind == "batch":
        every_GN = (rewards_GN - rewards_GN.nanmean()).nan_to_num(0.0)
        return centred_GN / (deviation(every_GN, count_G1.sum(), (0, 1)) + EPSILON)
    return centred_GN


def deviation(centred_GN: Tensor, count: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Unbiased standard deviation over `dims`, which stay, of `count` numbers with mean 0; 0 for a single one."""
    return (centred_GN.square().sum(dims, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


def whiten(x_BT: Tensor, mask_BT: Tensor, centre: bool = True) -> Tensor:
    """Mean 0 and unbiased variance 1 over the places where the mask is True, 0 elsewhere; centre=False keeps the mean.

    As in PPO's reference code (Huang et al. 2024, detail 4), 1e-8 is added to the variance.
    """
    count = mask_BT.sum().clamp(min=1)
    mean = (x_BT * mask_BT).sum() / count
    variance = ((x_BT - mean) * mask_BT).square().sum() / (count - 1).clamp(min=1)
    scaled_BT = (x_BT - mean) * (variance + 1e-8).rsqrt()
    return torch.where(mask_BT, scaled_BT if centre else scaled_BT + mean, 0.0)


def generalized_advantages(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, discount: float = 1.0, decay: float = 0.95
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), (B, T) each, 0 where the mask is False (GAE, Schulman et al. 2016, eq. 16).

    delta_t = r_t + discount V_{t+1} - V_t; A_t = delta_t + discount decay A_{t+1}; the return is A_t + V_t. The answer
    ends: V is 0 after its last token. Tokens where the mask is False (tools', padding) are passed over as if they were
    not there: the next one is the next whose mask is True. Values are taken as they are, without gradients.
    """
    values_BT = values_BT.detach()
    next_B = gained_B = values_BT.new_zeros(len(values_BT))
    gains_BT = torch.zeros_like(values_BT)
    for t in reversed(range(values_BT.shape[1])):
        own_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + discount * next_B - values_BT[:, t]
        gained_B = torch.where(own_B, delta_B + discount * decay * gained_B, gained_B)
        next_B = torch.where(own_B, values_BT[:, t], next_B)
        gains_BT[:, t] = gained_B * own_B
    return gains_BT, (gains_BT + values_BT) * mask_BT
