"""What rewards become: worked out by hand, against TRL's helpers, and against loops over single tokens."""

import math

import pytest
import torch
from torch import Tensor
from trl.trainer.utils import nanstd

from fromzero.tuning.advantages import advantages, generalized_advantages, whiten

NAN = math.nan


def test_by_hand() -> None:
    rewards_GN = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    deviation = 0.5  # unbiased: sqrt((0.75^2 + 3 * 0.25^2) / 3)
    found_GN = advantages(rewards_GN, "group_std")
    assert found_GN[0].tolist() == pytest.approx([0.75 / (deviation + 1e-4)] + 3 * [-0.25 / (deviation + 1e-4)])
    assert found_GN[1].tolist() == [0, 0, 0, 0]  # and not 0 / 0
    assert advantages(rewards_GN, "group")[0].tolist() == [0.75, -0.25, -0.25, -0.25]
    others = [1 - 0, 0 - 1 / 3, 0 - 1 / 3, 0 - 1 / 3]  # the mean of the three others is the baseline
    assert advantages(rewards_GN, "leave_one_out")[0].tolist() == pytest.approx(others)


@pytest.mark.parametrize("kind", ["group_std", "batch"])
def test_as_in_trl(kind: str) -> None:
    torch.manual_seed(0)
    rewards_GN = torch.rand(5, 6)
    rewards_GN[2, 3] = rewards_GN[4, :2] = NAN
    deviation = nanstd(rewards_GN, dim=1).unsqueeze(1) if kind == "group_std" else nanstd(rewards_GN)
    expected_GN = (rewards_GN - rewards_GN.nanmean(1, keepdim=True)) / (deviation + 1e-4)
    found_GN = advantages(rewards_GN, kind)  # type: ignore[arg-type]
    torch.testing.assert_close(found_GN, expected_GN.nan_to_num(0.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["group_std", "group", "leave_one_out", "batch"])
def test_unknown_rewards_change_nothing(kind: str) -> None:
    known_GN, more_GN = torch.tensor([[0.2, 0.9, 0.4]]), torch.tensor([[0.2, NAN, 0.9, 0.4, NAN]])
    found_GN = advantages(more_GN, kind)  # type: ignore[arg-type]
    torch.testing.assert_close(found_GN[:, [0, 2, 3]], advantages(known_GN, kind))  # type: ignore[arg-type]
    assert found_GN[0, [1, 4]].tolist() == [0, 0]
    nothing_GN = torch.full((2, 3), NAN)
    assert advantages(nothing_GN, kind).tolist() == [[0, 0, 0]] * 2  # type: ignore[arg-type]
    assert advantages(torch.tensor([[0.7]]), kind).tolist() == [[0]]  # type: ignore[arg-type]


def test_leave_one_out_equals_the_loop() -> None:
    torch.manual_seed(1)
    rewards_GN = torch.rand(4, 5)
    for group, found_N in zip(rewards_GN.tolist(), advantages(rewards_GN, "leave_one_out"), strict=True):
        loop = [r - sum(group[:i] + group[i + 1 :]) / 4 for i, r in enumerate(group)]
        assert found_N.tolist() == pytest.approx(loop, abs=1e-6)


def test_whitened() -> None:
    torch.manual_seed(2)
    x_BT, mask_BT = 3 * torch.randn(4, 7) + 2, torch.rand(4, 7) < 0.6
    found_N = whiten(x_BT, mask_BT)[mask_BT]
    assert float(found_N.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found_N.var()) == pytest.approx(1, abs=1e-5)  # torch's is the unbiased one
    kept_N = whiten(x_BT, mask_BT, centre=False)[mask_BT]
    assert float(kept_N.mean()) == pytest.approx(float(x_BT[mask_BT].mean()), abs=1e-5)
    assert not whiten(x_BT, mask_BT)[~mask_BT].any()
    assert not whiten(x_BT, torch.zeros_like(mask_BT)).any()


def loop(rewards: list[float], values: list[float], discount: float, decay: float) -> list[float]:
    """The sum of discounted errors, as the paper writes it."""
    values = [*values, 0.0]
    errors = [r + discount * values[t + 1] - values[t] for t, r in enumerate(rewards)]
    return [sum((discount * decay) ** k * e for k, e in enumerate(errors[t:])) for t in range(len(errors))]


def test_gae_equals_the_sum_and_skips_what_is_masked() -> None:
    torch.manual_seed(3)
    rewards_BT, values_BT = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    mask_BT = torch.ones(3, 8, dtype=torch.bool)
    mask_BT[1, 5:] = mask_BT[2, :2] = mask_BT[2, 4:6] = False  # padding; a prompt, and what a tool said
    found_BT, returns_BT = generalized_advantages(rewards_BT, values_BT, mask_BT, 0.98, 0.9)
    for b in range(3):
        own: Tensor = mask_BT[b]
        expected = loop(rewards_BT[b, own].tolist(), values_BT[b, own].tolist(), 0.98, 0.9)
        assert found_BT[b, own].tolist() == pytest.approx(expected, abs=1e-9)
        assert not found_BT[b, ~own].any()
        assert not returns_BT[b, ~own].any()
    torch.testing.assert_close(returns_BT, (found_BT + values_BT) * mask_BT)


def test_gae_by_hand() -> None:
    ones_BT = torch.ones(1, 3, dtype=torch.bool)
    gains_BT, _ = generalized_advantages(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.6, 0.7]]), ones_BT)
    last = 1 - 0.7
    middle = 0.7 - 0.6 + 0.95 * last
    assert gains_BT.tolist()[0] == pytest.approx([0.6 - 0.5 + 0.95 * middle, middle, last])
