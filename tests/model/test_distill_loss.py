"""The loss in blocks against the plain form, and the divergences against TRL's and their definitions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fromzero.model import ModelConfig, Transformer, linear_loss
from fromzero.model.distill_loss import Divergence, distillation_loss, divergence

KINDS: tuple[Divergence, ...] = ("forward", "reverse", "jsd")


def plain(kind: Divergence, student_NV: Tensor, teacher_NV: Tensor, temperature: float) -> Tensor:
    """By definition."""
    p, t = (student_NV / temperature).softmax(-1), (teacher_NV / temperature).softmax(-1)
    if kind == "forward":
        return (t * (t / p).log()).sum(-1)
    if kind == "reverse":
        return (p * (p / t).log()).sum(-1)
    m = (p + t) / 2
    return ((t * (t / m).log()).sum(-1) + (p * (p / m).log()).sum(-1)) / 2


def test_divergences_of_a_coin() -> None:
    """Teacher 3/4, student 1/2."""
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    expected = {"forward": 0.75 * math.log(1.5) + 0.25 * math.log(0.5)}
    expected["reverse"] = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    m = 0.625
    of_teacher = 0.75 * math.log(0.75 / m) + 0.25 * math.log(0.25 / (1 - m))
    expected["jsd"] = 0.5 * (of_teacher + 0.5 * math.log(0.5 / m) + 0.5 * math.log(0.5 / (1 - m)))
    for kind in KINDS:
        value, slope = divergence(kind, student, teacher, 1.0)
        assert value.item() == pytest.approx(expected[kind], abs=1e-6)
        assert slope[0, 0] < 0 < slope[0, 1]
    assert divergence("forward", student, teacher, 1.0)[1][0].tolist() == pytest.approx([-0.25, 0.25])


@pytest.mark.parametrize(("kind", "beta"), [("forward", 0.0), ("reverse", 1.0), ("jsd", 0.5)])
def test_divergences_equal_trl(kind: Divergence, beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 11), torch.randn(2, 5, 11)
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, temperature=1.7, reduction="sum")
    ours = divergence(kind, student.flatten(0, 1), teacher.flatten(0, 1), 1.7)[0].sum()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("teacher_vocab", [50, 44, 57])
def test_loss_in_blocks(
    kind: Divergence, softcap: float | None, teacher_vocab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradients of the plain form, whatever the blocks; padded vocabularies count as far as both go."""
    monkeypatch.setattr(linear_loss, "BLOCK_BYTES", 4 * 50 * 3)  # three rows
    config = ModelConfig(
        width=16, heads=1, layers=1, logit_softcap=softcap, logit_scale=1.5, head_bias=True, tied=False
    )
    model = Transformer(config.with_vocab(50), seed=1)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.bias)  # type: ignore[arg-type]
    x, teacher, targets = torch.randn(8, 16, requires_grad=True), torch.randn(8, teacher_vocab), torch.arange(8)
    weight, alpha, temperature = model.head_weight, 0.7, 2.5

    loss, sums = distillation_loss(
        model.head, x, weight, targets, lambda rows: teacher[rows], alpha=alpha, temperature=temperature, kind=kind
    )
    logits, both = model.head(x, weight), min(50, teacher_vocab)
    apart = plain(kind, logits[:, :both], teacher[:, :both], temperature).sum()
    nats = F.cross_entropy(logits, targets, reduction="sum")
    expected = alpha * temperature**2 * apart + (1 - alpha) * nats
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    same = (logits[:, :both].argmax(-1) == teacher[:, :both].argmax(-1)).sum()
    assert sums.tolist() == pytest.approx([nats.item(), apart.item(), same.item()], rel=1e-5)
    of = (x, model.head.weight, model.head.bias)
    for ours, theirs in zip(torch.autograd.grad(loss, of), torch.autograd.grad(expected, of), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
