"""The fused loss against the plain one: value and gradients, across block borders, with ignored targets."""

import pytest
import torch

from fromzero.model import functions, linear_loss
from fromzero.model.linear_loss import IGNORE, linear_cross_entropy


@pytest.mark.parametrize("rows_in_a_block", [1, 4, 7, 100])
@pytest.mark.parametrize("ignored", [0, 3, 10])
def test_equal_to_the_plain_form(monkeypatch: pytest.MonkeyPatch, rows_in_a_block: int, ignored: int) -> None:
    monkeypatch.setattr(linear_loss, "BLOCK_BYTES", 4 * 20 * rows_in_a_block)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10, 8, generator=generator, requires_grad=True)
    weight = torch.randn(20, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 20, (10,), generator=generator)
    targets[torch.randperm(10, generator=generator)[:ignored]] = IGNORE
    plain = functions.cross_entropy(x @ weight.T, targets).sum()
    expected = torch.autograd.grad(plain * 3, (x, weight))
    fused = linear_cross_entropy(x, weight, targets)
    torch.testing.assert_close(fused, plain)
    for ours, theirs in zip(torch.autograd.grad(fused * 3, (x, weight)), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_in_bfloat16_the_loss_and_the_weight_gradient_are_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator).bfloat16().requires_grad_()
    weight = torch.randn(20, 8, generator=generator, requires_grad=True)
    loss = linear_cross_entropy(x, weight, torch.randint(0, 20, (64,), generator=generator))
    loss.backward()
    assert loss.dtype == torch.float32
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_without_gradients_none_are_made() -> None:
    x, weight = torch.ones(4, 3), torch.ones(5, 3)
    with torch.no_grad():
        found = linear_cross_entropy(x, weight, torch.tensor([0, 1, 2, IGNORE]))
    torch.testing.assert_close(found, 3 * torch.tensor(5.0).log())


def test_targets_that_are_next_to_impossible_cost_what_they_should() -> None:
    weight = torch.tensor([[0.0], [-200.0], [-80.0]])
    x = torch.ones(3, 1, requires_grad=True)
    loss = linear_cross_entropy(x, weight, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(loss, torch.tensor(280.0))
    loss.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
