"""The preference losses, against values worked out by hand and against TRL's own code on the same tensors."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

from fromzero.tuning.preference_losses import (
    PairLoss,
    hinge_loss,
    ipo_loss,
    kl_estimate,
    kto_loss,
    orpo_loss,
    preference_loss,
    robust_loss,
    sigmoid_loss,
    simpo_loss,
)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


DELTAS = [2.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("found", "by_hand"),
    [
        (lambda d: sigmoid_loss(d, 0.5), lambda d: -math.log(sigma(0.5 * d))),
        (
            lambda d: sigmoid_loss(d, 0.5, 0.1),
            lambda d: -0.9 * math.log(sigma(0.5 * d)) - 0.1 * math.log(sigma(-0.5 * d)),
        ),
        (
            lambda d: robust_loss(d, 0.5, 0.1),
            lambda d: (-0.9 * math.log(sigma(0.5 * d)) + 0.1 * math.log(sigma(-0.5 * d))) / 0.8,
        ),
        (lambda d: hinge_loss(d, 0.5), lambda d: max(0.0, 1 - 0.5 * d)),
        (lambda d: ipo_loss(d, 0.5), lambda d: (d - 1) ** 2),
        (lambda d: kto_loss(d, d > -2, 0.3, 0.5), lambda d: 1 - sigma(0.5 * (d - 0.3))),
        (lambda d: kto_loss(d, d > 9, 0.3, 0.5, (1.0, 2.0)), lambda d: 2 * (1 - sigma(0.5 * (0.3 - d)))),
    ],
    ids=["sigmoid", "cDPO", "robust", "hinge", "ipo", "kto good", "kto bad"],
)
def test_values_by_hand(found: Any, by_hand: Any) -> None:
    expected = torch.tensor([by_hand(d) for d in DELTAS])
    torch.testing.assert_close(found(torch.tensor(DELTAS)), expected, atol=1e-6, rtol=0)


def test_losses_without_a_reference_by_hand() -> None:
    mean = torch.tensor([[-0.5, -1.0], [-2.0, -0.1]])
    odds = [[math.exp(m) / (1 - math.exp(m)) for m in side] for side in ((-0.5, -2.0), (-1.0, -0.1))]
    orpo = [-m - 0.2 * math.log(sigma(math.log(c / r))) for m, c, r in zip((-0.5, -2.0), *odds, strict=True)]
    torch.testing.assert_close(orpo_loss(mean, 0.2), torch.tensor(orpo), atol=1e-6, rtol=0)
    simpo = [-math.log(sigma(2 * d - 0.5)) for d in (0.5, -1.9)]
    torch.testing.assert_close(simpo_loss(mean, 2.0, 0.5), torch.tensor(simpo), atol=1e-6, rtol=0)
    certain = torch.tensor([[0.0, -1.0]], requires_grad=True)
    orpo_loss(certain, 0.1).sum().backward()
    assert certain.grad is not None
    assert torch.isfinite(certain.grad).all()


def test_of_a_whole_batch() -> None:
    assert kl_estimate(-3.0, 4) == 0
    assert kl_estimate(3.0, 4) == 0.75
    policy, reference = _sums(0), _sums(1)
    tokens = torch.tensor([[3.0, 5, 1, 2, 9, 4], [2.0, 2, 8, 1, 5, 3]]).T
    summed, rewards = preference_loss("ipo", policy, reference, tokens, beta=0.3, per_token=False)
    averaged, _ = preference_loss("ipo", policy.requires_grad_(), reference, tokens, beta=0.3)
    ratio = policy.detach() - reference
    torch.testing.assert_close(summed, ipo_loss(ratio[:, 0] - ratio[:, 1], 0.3))
    torch.testing.assert_close(averaged, ipo_loss((ratio / tokens)[:, 0] - (ratio / tokens)[:, 1], 0.3))
    torch.testing.assert_close(rewards, 0.3 * ratio)
    assert averaged.requires_grad
    assert not rewards.requires_grad


def _sums(seed: int) -> Tensor:
    return -20 * torch.rand(6, 2, generator=torch.Generator().manual_seed(seed))


class _Says(torch.nn.Module):
    """In place of a model for TRL: log-probabilities of tokens, as its own models return them."""

    def __init__(self, logprobs_BT: Tensor) -> None:
        super().__init__()
        self.logprobs_BT, self.is_gradient_checkpointing = logprobs_BT, False

    def forward(self, input_ids: Tensor, labels: Tensor, **_: Any) -> Any:
        kept_BT = self.logprobs_BT * (labels[:, 1:] != -100)
        nothing_BT = torch.zeros_like(kept_BT)
        return SimpleNamespace(
            log_probs=kept_BT, entropy=nothing_BT, mean_logits=nothing_BT, is_top1=nothing_BT.bool(), aux_loss=None
        )


class _Accelerator:
    device = torch.device("cpu")

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    gather_for_metrics = gather


class _Everything(dict[str, Any]):
    def __missing__(self, key: str) -> list[Any]:
        self[key] = []
        return self[key]


LENGTHS = (3, 7, 2, 6, 4, 5)  # of three chosen, then of three rejected answers


def _theirs(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities under both models and a mask of answers, as TRL has them; and the lengths of answers."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = [-2 * torch.rand(6, 9, generator=generator) for _ in range(2)]
    lengths_B = torch.tensor(LENGTHS)
    mask_BT = (torch.arange(10) > 1) & (torch.arange(10) < 2 + lengths_B[:, None])
    return logprobs[0], logprobs[1], mask_BT.long(), lengths_B


@pytest.mark.parametrize(
    ("theirs", "ours", "smoothing", "per_token"),
    [
        ("sigmoid", "sigmoid", 0.0, None),
        ("sigmoid_norm", "sigmoid", 0.0, True),
        ("robust", "robust", 0.1, None),
        ("hinge", "hinge", 0.0, None),
        ("ipo", "ipo", 0.0, None),
    ],
)
def test_equal_to_trl(theirs: str, ours: PairLoss, smoothing: float, per_token: bool | None) -> None:
    policy_BT, reference_BT, mask_BT, lengths_B = _theirs(3)
    fields = {"beta": 0.3, "label_smoothing": smoothing, "loss_types": [theirs], "loss_weights": [1.0]}
    fields |= {"ld_alpha": None, "f_divergence_type": "reverse_kl", "precompute_ref_logps": False}
    fields |= {"aux_loss_enabled": False, "use_weighting": False, "accelerator": _Accelerator(), "_tp_size": 1}
    fields |= {"_metrics": {"eval": _Everything()}, "_total_train_tokens": 0}
    fields |= {"model": _Says(policy_BT).eval(), "ref_model": _Says(reference_BT).eval()}
    args = SimpleNamespace(gradient_checkpointing=False, gradient_checkpointing_kwargs=None)
    trainer: Any = SimpleNamespace(**fields, args=args)
    inputs = {"input_ids": mask_BT + 5, "attention_mask": torch.ones_like(mask_BT), "completion_mask": mask_BT}
    loss = DPOTrainer._compute_loss(trainer, trainer.model, inputs, False)
    policy, reference = ((t_BT * mask_BT[:, 1:]).sum(1).view(2, 3).T for t_BT in (policy_BT, reference_BT))
    loss_P, rewards_P2 = preference_loss(
        ours, policy, reference, lengths_B.view(2, 3).T, beta=0.3, label_smoothing=smoothing, per_token=per_token
    )
    torch.testing.assert_close(loss_P.mean(), loss, atol=1e-6, rtol=1e-6)
    if per_token is None and ours != "ipo":
        assert trainer._metrics["eval"]["rewards/margins"] == [
            pytest.approx(float((rewards_P2[:, 0] - rewards_P2[:, 1]).mean()), abs=1e-6)
        ]


@pytest.mark.parametrize("lift", [-0.4, 0.4])
def test_kto_is_equal_to_trl(lift: float) -> None:
    policy_BT, reference_BT, mask_BT, _ = _theirs(4)
    policy_BT = policy_BT + lift
    good_B = torch.tensor([True, True, False, True, False, False])
    fields = {"beta": 0.3, "loss_type": "kto", "desirable_weight": 1.0, "undesirable_weight": 1.2, "calculate_KL": True}
    fields |= {"precompute_ref_logps": True, "aux_loss_enabled": False, "accelerator": _Accelerator(), "_tp_size": 1}
    fields |= {"_total_train_tokens": 0}
    trainer: Any = SimpleNamespace(**fields, _metrics={"eval": _Everything()}, model=_Says(policy_BT).eval())
    trainer._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(trainer, model, batch)
    other_BT = mask_BT.roll(1, 0)
    reference_B, reference_other_B = ((reference_BT * m_BT[:, 1:]).sum(1) for m_BT in (mask_BT, other_BT))
    inputs = {"input_ids": mask_BT + 5, "attention_mask": torch.ones_like(mask_BT), "completion_mask": mask_BT}
    inputs |= {"KL_" + name: tensor.clone() for name, tensor in inputs.items()} | {"label": good_B}
    inputs |= {"KL_completion_mask": other_BT, "ref_logps": reference_B, "ref_KL_logps": reference_other_B}
    loss = KTOTrainer._compute_loss(trainer, trainer.model, inputs, False)
    ratio_B = (policy_BT * mask_BT[:, 1:]).sum(1) - reference_B
    other_B = (policy_BT * other_BT[:, 1:]).sum(1) - reference_other_B
    kl = kl_estimate(float(other_B.sum()), len(other_B))
    assert (kl > 0) is (lift > 0)
    ours_B = kto_loss(ratio_B, good_B, kl, 0.3, (1.0, 1.2))
    torch.testing.assert_close(ours_B.mean(), loss.nanmean(), atol=1e-6, rtol=1e-6)


def test_orpo_and_simpo_are_equal_to_trl() -> None:
    mean = _sums(5) / 20 - 0.05
    trainer: Any = SimpleNamespace(beta=0.3, accelerator=_Accelerator())
    sides: Any = mean.unbind(1)
    odds_part, *_ = ORPOTrainer.odds_ratio_loss(trainer, *sides)
    torch.testing.assert_close(orpo_loss(mean, 0.3) + mean[:, 0], -odds_part, atol=1e-6, rtol=1e-6)
    fields = {"beta": 2.0, "simpo_gamma": 0.5, "label_smoothing": 0.1, "alpha": 0.0, "loss_type": "simpo"}
    trainer = SimpleNamespace(**fields, accelerator=_Accelerator())
    losses, *_ = CPOTrainer.cpo_loss(trainer, *sides)
    torch.testing.assert_close(simpo_loss(mean, 2.0, 0.5, 0.1), losses, atol=1e-6, rtol=1e-6)
