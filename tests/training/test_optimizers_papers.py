"""Lion, Adafactor and Muon against the equations of their papers, written out."""

import pytest
import torch
from torch import Tensor, nn

from fromzero.training.optimizers import Adafactor, Lion, Muon
from fromzero.training.optimizers.muon import orthogonalize


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_lion_is_its_algorithm_2() -> None:
    weight = nn.Parameter(random(4, 3))
    w, m = weight.detach().clone().double(), torch.zeros(4, 3, dtype=torch.float64)
    optimizer = Lion([weight], lr=0.01, betas=(0.9, 0.99), weight_decay=0.3)
    for step in range(30):
        g = random(4, 3, seed=step)
        weight.grad = g.clone()
        optimizer.step()
        w = w - 0.01 * (torch.sign(0.9 * m + 0.1 * g) + 0.3 * w)
        m = 0.99 * m + 0.01 * g
    torch.testing.assert_close(weight.detach().double(), w, atol=1e-6, rtol=0)


def test_adafactor_is_its_algorithm_4_for_stacks_of_matrices_too() -> None:
    """With the decay of algorithm 7 (1 - t ** -0.8), and the rate of a schedule."""
    weight = nn.Parameter(random(2, 4, 3))
    ws = [w.double() for w in weight.detach().clone()]
    r, c = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    optimizer = Adafactor([weight], lr=0.02)
    for t in range(1, 31):
        g = random(2, 4, 3, seed=t)
        weight.grad = g.clone()
        optimizer.step()
        beta2 = 1 - t**-0.8
        u = torch.empty(2, 4, 3, dtype=torch.float64)
        for i in range(2):
            r[i] = beta2 * r[i] + (1 - beta2) * g[i].double().square().sum(1)
            c[i] = beta2 * c[i] + (1 - beta2) * g[i].double().square().sum(0)
            u[i] = g[i] / torch.sqrt(torch.outer(r[i], c[i]) / r[i].sum())
        size = torch.stack(ws).square().mean().sqrt()
        u = u / max(1.0, float(u.square().mean().sqrt()))
        ws = [w - 0.02 * max(1e-3, float(size)) * step for w, step in zip(ws, u, strict=True)]
    torch.testing.assert_close(weight.detach().double(), torch.stack(ws), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 24), (2, 40, 10)])
def test_newton_and_schulz_bring_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    x = random(*shape)
    done = orthogonalize(x)
    values = torch.linalg.svdvals(done)
    big = torch.linalg.svdvals(x) / torch.linalg.matrix_norm(x)[:, None] > 0.01
    assert big.float().mean() > 0.9
    assert values[big].min() > 0.68  # of the polynomial itself from 0.01 on; 0.7 to 1.2 is what is said of it
    assert values.max() < 1.2
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    alignment = (done * (u @ v)).sum((-2, -1)) / (done.norm(dim=(-2, -1)) * (u @ v).norm(dim=(-2, -1)))
    assert alignment.min() > 0.95


def test_muon_takes_a_stack_as_matrices_of_their_own() -> None:
    """Experts: a stack of three dimensions moves as its matrices would alone; so do matrices of one shape together."""
    stack = nn.Parameter(random(3, 8, 4))
    single = [nn.Parameter(matrix.clone()) for matrix in stack.detach()]
    for step in range(20):
        stack.grad = random(3, 8, 4, seed=step)
        for parameter, gradient in zip(single, stack.grad, strict=True):
            parameter.grad = gradient.clone()
        if step == 0:
            together, alone = Muon([stack]), Muon(single)
        together.step()
        alone.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in single]), atol=1e-6, rtol=1e-6)


def test_muons_steps_change_outputs_as_much_whatever_the_shape() -> None:
    """The factor sqrt(max(1, rows / columns)) of Jordan's; the first step goes along the gradient."""
    for rows, columns, factor in ((16, 16, 1.0), (16, 64, 1.0), (64, 16, 2.0)):
        weight = nn.Parameter(torch.zeros(rows, columns))
        weight.grad = random(rows, columns)
        Muon([weight], lr=0.1).step()
        expected = -0.1 * factor * orthogonalize(weight.grad[None])[0]
        torch.testing.assert_close(weight.detach(), expected, atol=1e-5, rtol=1e-4)
