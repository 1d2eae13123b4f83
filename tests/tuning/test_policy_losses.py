"""The losses of a policy, against values worked out by hand and against TRL's own code on the same tensors."""

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer

from fromzero.tuning.policy_losses import (
    Penalty,
    clipped_loss,
    kl_divergence,
    log_ratios,
    loss_count,
    sampler_weights,
    token_weights,
    value_loss,
)

LONGEST = 9


def tensors(seed: int = 0) -> dict[str, Tensor]:
    """Answers of several lengths, one of them without loss."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([9, 4, 1, 6, 0, 7])
    mask_BT = torch.arange(LONGEST) < lengths[:, None]
    drawn = {name: -2 * torch.rand(6, LONGEST, generator=generator) for name in ("new", "old", "reference", "sampled")}
    return {**drawn, "mask": mask_BT, "gains": torch.randn(6, generator=generator)}


def of_trl(t: dict[str, Tensor], loss: str, level: str, beta: float = 0.0, delta: float | None = None) -> float:
    """GRPOTrainer's loss of one batch on one device."""
    trainer: Any = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (t["new"], torch.zeros_like(t["new"]), None),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, **_: x),
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, _entropy_bonus_enabled=False,
        importance_sampling_level=level, beta=beta, loss_type=loss, epsilon_low=0.2, epsilon_high=0.28,
        use_vllm=True, vllm_importance_sampling_correction=True, current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
    )  # fmt: skip
    mask_BT = t["mask"].long()
    inputs = {
        "prompt_ids": mask_BT, "prompt_mask": mask_BT, "completion_ids": mask_BT, "completion_mask": mask_BT,
        "advantages": t["gains"], "old_per_token_logps": t["old"], "ref_per_token_logps": t["reference"],
        "num_items_in_batch": mask_BT.sum(),
        "importance_sampling_ratio": sampler_weights(t["old"], t["sampled"], t["mask"]),
    }  # fmt: skip
    return float(GRPOTrainer._compute_loss(trainer, None, inputs))


def ours(t: dict[str, Tensor], normalizer: Any, level: Any, beta: float = 0.0) -> float:
    ratios_BT = log_ratios(t["new"], t["old"], t["mask"], level)
    gains_BT = t["gains"][:, None].expand_as(t["new"])
    losses_BT, _ = clipped_loss(ratios_BT, gains_BT, 0.2, 0.28)
    losses_BT = losses_BT * sampler_weights(t["old"], t["sampled"], t["mask"])
    losses_BT = losses_BT + beta * kl_divergence(t["new"], t["reference"])
    total = (losses_BT * token_weights(t["mask"], normalizer)).sum()
    return float(total) / loss_count(t["mask"], normalizer, LONGEST)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("theirs", "normalizer"), [("grpo", "sequence"), ("dapo", "token"), ("dr_grpo", "constant")])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_as_in_trl(theirs: str, normalizer: str, level: str, beta: float) -> None:
    found, expected = ours(tensors(), normalizer, level, beta), of_trl(tensors(), theirs, level, beta)
    # TRL counts the answer that carries no loss among those that it divides by; here it does not dilute the others.
    expected *= 1 if normalizer == "token" else 6 / 5
    assert found == pytest.approx(expected, abs=1e-6)
    if normalizer == "token":
        assert found == pytest.approx(of_trl(tensors(), "bnpo", level, beta), abs=1e-6)


def test_clipped_by_hand() -> None:
    ratios_T = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1, 10.0]).log()
    gains_T = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0, -1.0])
    losses_T, clipped_T = clipped_loss(ratios_T, gains_T, 0.2, 0.28)
    assert losses_T.tolist() == pytest.approx([-1.28, 1.5, -0.5, 0.8, -2.2, 10.0])
    assert clipped_T.tolist() == [True, False, False, True, False, False]
    dual_T, _ = clipped_loss(ratios_T, gains_T, 0.2, 0.28, dual=3.0)
    assert dual_T.tolist() == pytest.approx([-1.28, 1.5, -0.5, 0.8, -2.2, 3.0])


def test_what_is_clipped_has_no_gradient() -> None:
    ratios_T = torch.tensor([1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    clipped_loss(ratios_T, torch.tensor([1.0, -1.0, 1.0, -1.0]))[0].sum().backward()
    assert ratios_T.grad is not None
    assert ratios_T.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])


def test_the_ratio_of_a_sequence_is_a_mean() -> None:
    """A sum makes long answers explode: of 100 tokens, each 1 % likelier, the ratio is 1.01, not 2.7."""
    new_BT, mask_BT = torch.full((1, 120), math.log(1.01)), torch.arange(120)[None] < 100
    ratios_BT = log_ratios(new_BT, torch.zeros(1, 120), mask_BT, "sequence")
    assert ratios_BT.exp()[0, :100].tolist() == pytest.approx([1.01] * 100)
    extreme_BT = log_ratios(torch.full((1, 2), 500.0), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))
    assert extreme_BT.exp().isfinite().all()


def test_divergences() -> None:
    new_V, reference_V = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    exact = float((new_V.exp() * (new_V - reference_V)).sum())
    for kind in ("k1", "k3"):  # unbiased: the mean over all that can be drawn is the divergence
        estimate_V = kl_divergence(new_V, reference_V, kind)
        assert float((new_V.exp() * estimate_V).sum()) == pytest.approx(exact, abs=1e-6)
    assert (kl_divergence(new_V, reference_V, "k3") >= 0).all()
    one, other = torch.tensor(-1.0), torch.tensor(-1.5)
    assert [float(kl_divergence(one, other, k)) for k in ("k1", "k2", "k3")] == pytest.approx(
        [0.5, 0.125, math.exp(-0.5) + 0.5 - 1]
    )


@pytest.mark.parametrize("normalizer", ["sequence", "token", "constant"])
def test_micro_batches_change_nothing(normalizer: Any) -> None:
    t = tensors()
    parts = [{name: tensor[rows] for name, tensor in t.items()} for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    sums = [ours(p, normalizer, "token") * loss_count(p["mask"], normalizer, LONGEST) for p in parts if p["mask"].any()]
    count = sum(loss_count(p["mask"], normalizer, LONGEST) for p in parts)
    assert sum(sums) / count == pytest.approx(ours(t, normalizer, "token"), abs=1e-6)


def test_who_spoke_is_corrected_for_with_a_bound() -> None:
    trainer_BT, sampled_BT = torch.tensor([[0.5, -1.0, 3.0, 9.0]]).log().nan_to_num(-1.0), torch.zeros(1, 4)
    mask_BT = torch.tensor([[True, True, True, False]])
    trainer_BT.requires_grad_()
    weights_BT = sampler_weights(trainer_BT, sampled_BT, mask_BT, most=2.0)
    assert weights_BT.tolist()[0] == pytest.approx([0.5, math.exp(-1), 2.0, 1.0])
    assert not weights_BT.requires_grad


def test_values_by_hand() -> None:
    values_T, old_T, returns_T = (
        torch.tensor([1.0, 0.3, -1.0]),
        torch.tensor([0.5, 0.2, 0.5]),
        torch.tensor([2.0, 0.0, -1.0]),
    )
    # 1.0 is held at 0.7, farther from 2; 0.3 is within; -1.0 is held at 0.3, though it is right
    assert value_loss(values_T, old_T, returns_T).tolist() == pytest.approx([0.5 * 1.69, 0.5 * 0.09, 0.5 * 1.69])
    assert value_loss(values_T, old_T, returns_T, None).tolist() == pytest.approx([0.5, 0.045, 0.0])


def test_the_penalty_leads_the_divergence_to_its_target() -> None:
    fixed, led = Penalty(0.1), Penalty(0.1, target=6.0, horizon=1000)
    for penalty in (fixed, led):
        penalty.update(60.0, 100)
    assert fixed.value == 0.1
    assert led.value == pytest.approx(0.1 * (1 + 0.2 * 100 / 1000))  # ten times too much counts as a fifth
    led.update(5.4, 100)
    assert led.value == pytest.approx(0.102 * (1 - 0.1 * 100 / 1000))
    again = Penalty(target=6.0, horizon=1000)
    again.load_state_dict(led.state_dict())
    assert again.value == led.value
