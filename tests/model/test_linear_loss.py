"""The fused loss against the plain one: value and gradients, across block borders, with ignored targets."""

import pytest
import torch

from fromzero.model import ModelConfig, functions, linear_loss
from fromzero.model.layers import Head
from fromzero.model.linear_loss import IGNORE, linear_cross_entropy, linear_logprobs, linear_nats


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


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("biased", [False, True])
def test_every_head_is_covered(monkeypatch: pytest.MonkeyPatch, softcap: float | None, biased: bool) -> None:
    """The loss of the head's own logits, and all gradients, in blocks of 3 rows."""
    monkeypatch.setattr(linear_loss, "BLOCK_BYTES", 4 * 20 * 3)
    generator = torch.Generator().manual_seed(0)
    config = ModelConfig(
        vocab_size=20, width=8, heads=2, tied=False, logit_scale=0.7, logit_softcap=softcap, head_bias=biased
    )
    head = Head(config)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x = torch.randn(10, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 20, (10,), generator=generator)
    targets[4] = IGNORE
    assert head.weight is not None
    nats = functions.cross_entropy(head(x, head.weight), targets)
    wanted = torch.autograd.grad(nats.sum() * 3, (x, *head.parameters()))
    loss = head.loss(x, head.weight, targets)
    torch.testing.assert_close(loss, nats.sum())
    torch.testing.assert_close(torch.autograd.grad(loss * 3, (x, *head.parameters())), wanted)
    torch.testing.assert_close(head.nats(x, head.weight, targets), nats.detach())


def test_the_loss_of_each_row_in_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(6, 8, generator=generator), torch.randn(20, 8, generator=generator)
    targets = torch.tensor([3, IGNORE, 0, 1, 2, 19])
    found = linear_nats(x.bfloat16(), weight, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, functions.cross_entropy(x @ weight.T, targets), atol=0.05, rtol=0.02)


def test_a_pass_that_keeps_the_graph_leaves_its_gradients_to_a_second_one() -> None:
    x, weight = torch.ones(4, 3, requires_grad=True), torch.ones(5, 3, requires_grad=True)
    loss = linear_cross_entropy(x, weight, torch.tensor([0, 1, 2, 3])) * 0.5
    first = torch.autograd.grad(loss, (x, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (x, weight))
    torch.testing.assert_close(second, first, rtol=0, atol=0)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_of_tokens_have_gradients(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, temperature: float
) -> None:
    monkeypatch.setattr(linear_loss, "BLOCK_BYTES", 4 * 20 * 3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10, 8, generator=generator, requires_grad=True)
    weight = torch.randn(20, 8, generator=generator, requires_grad=True)
    bias = torch.randn(20, generator=generator, requires_grad=True)
    targets = torch.randint(0, 20, (10,), generator=generator)
    targets[[2, 7]] = IGNORE
    logits = (x @ weight.T + bias) * 0.5
    logits = logits if softcap is None else softcap * (logits / softcap).tanh()
    plain = (logits / temperature).log_softmax(-1).gather(1, targets.clamp(min=0)[:, None])[:, 0] * (targets != IGNORE)
    found = linear_logprobs(x, weight, targets, bias, 0.5, softcap, temperature)
    torch.testing.assert_close(found, plain)
    factors = torch.randn(10, generator=generator)
    expected = torch.autograd.grad((plain.exp() * factors).sum(), (x, weight, bias))
    for ours, theirs in zip(
        torch.autograd.grad((found.exp() * factors).sum(), (x, weight, bias)), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_frozen_matrix_gets_no_gradient() -> None:
    x, weight = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
    targets = torch.tensor([0, 1, 2, IGNORE])
    (ours,) = torch.autograd.grad(linear_cross_entropy(x, weight, targets), x)
    (theirs,) = torch.autograd.grad(functions.cross_entropy(x @ weight.T, targets)[:3].sum(), x)
    torch.testing.assert_close(ours, theirs)
