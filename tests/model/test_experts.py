"""Routing by hand, experts against a loop over tokens, what keeps them equally busy."""

import math
from dataclasses import replace

import pytest
import torch

from fromzero.errors import UserError
from fromzero.model import Transformer, functions
from fromzero.model.config import Experts
from fromzero.model.experts import Mixture, Router, balance_loss, grouped_linear, z_loss
from tests.model.shapes import DECODERS, MIXTURE, TINY

hidden = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
ids = torch.randint(0, 50, (2, 14), generator=torch.Generator().manual_seed(0))


def mixture(shape: Experts, width: int = 24) -> Mixture:
    made = Mixture(replace(TINY, width=width, head_width=6), shape).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return made


def chosen(shape: Experts, logits: list[float], bias: list[float] | None = None) -> dict[int, float]:
    """Expert -> weight for a token whose logits are these."""
    router = Router(replace(TINY, width=len(logits), head_width=6), shape)
    torch.nn.init.eye_(router.weight)
    if bias is not None:
        router.bias = torch.tensor(bias)
    routes = router(torch.tensor([logits]))
    return dict(zip(routes.experts_NA[0].tolist(), routes.weights_NA[0].tolist(), strict=True))


def test_softmax_routing_by_hand() -> None:
    logits = [math.log(4), 0.0, math.log(3), 0.0]  # shares 4/9, 1/9, 3/9, 1/9
    assert chosen(replace(MIXTURE, normalize=False), logits) == pytest.approx({0: 4 / 9, 2: 3 / 9})
    assert chosen(replace(MIXTURE, scale=2.0), logits) == pytest.approx({0: 8 / 7, 2: 6 / 7})


def test_a_bias_changes_the_choice_but_no_weight() -> None:
    shape = replace(MIXTURE, router="sigmoid", balance="bias", normalize=False)
    logits = [math.log(3), 0.0, math.log(9), 0.0]  # 0.75, 0.5, 0.9, 0.5
    assert chosen(shape, logits) == pytest.approx({0: 0.75, 2: 0.9})
    assert chosen(shape, logits, [0.0, 0.3, 0.0, 0.0]) == pytest.approx({1: 0.5, 2: 0.9})


def test_only_experts_of_the_best_groups_are_chosen() -> None:
    shape = Experts(count=6, active=2, width=8, router="sigmoid", groups=3, normalize=False)
    logits = [4.0, -4.0, 1.0, 1.5, 0.5, 0.6]  # pairs: one very good, two good, two fair
    by_best = chosen(replace(shape, group_score="max"), logits)
    by_sum = chosen(replace(shape, group_score="top2"), logits)
    assert set(by_best) == {0, 1}
    assert set(by_sum) == {2, 3}
    assert set(chosen(replace(shape, group_score="top2", active_groups=2), logits)) == {2, 3}
    assert set(chosen(replace(shape, group_score="max", active_groups=2), logits)) == {0, 3}


@pytest.mark.parametrize("width", [24, 22])  # rows of whole 16 bytes, and others
@pytest.mark.parametrize("shape", [MIXTURE, Experts(count=16, active=1, width=8), Experts(count=3, active=3, width=6)])
def test_grouped_experts_equal_the_loop_over_tokens_with_gradients(width: int, shape: Experts) -> None:
    made = mixture(shape, width)
    gradients = []
    for fast in (True, False):
        made.zero_grad()
        x = hidden[..., :width].clone().requires_grad_()
        routes = made.router(x.flatten(0, 1))
        matrices = tuple(getattr(made.experts, name) for name in ("gate", "up", "down"))
        plain = functions.mixture(x.flatten(0, 1), routes.experts_NA, routes.weights_NA, matrices).view_as(x)
        y = made(x) if fast else plain
        y.pow(2).sum().backward()
        gradients.append([y.detach(), x.grad, *(p.grad for p in made.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_without_a_token_do_nothing_and_learn_nothing(dtype: torch.dtype) -> None:
    weight = torch.randn(4, 8, 16, requires_grad=True)
    x = torch.randn(5, 16, dtype=dtype)
    y = grouped_linear(x, weight, torch.tensor([0, 2, 3, 0]))
    torch.testing.assert_close(y[2:], x[2:] @ weight[2].T.to(dtype), rtol=0.05, atol=0.1)
    y.pow(2).sum().backward()
    assert weight.grad is not None
    assert [bool(g.abs().sum() > 0) for g in weight.grad] == [False, True, True, False]
    assert grouped_linear(x[:0], weight, torch.zeros(4, dtype=torch.long)).shape == (0, 8)


def test_a_shared_expert_is_added_and_may_be_gated() -> None:
    plain = mixture(replace(MIXTURE, shared=12))
    assert plain.shared is not None
    routed = mixture(MIXTURE)
    routed.load_state_dict({k: v for k, v in plain.state_dict().items() if not k.startswith("shared")})
    torch.testing.assert_close(plain(hidden), routed(hidden) + plain.shared(hidden))
    gated = mixture(replace(MIXTURE, shared=12, shared_gate=True))
    assert gated.shared_gate is not None
    gated.load_state_dict(plain.state_dict(), strict=False)
    gate = torch.sigmoid(gated.shared_gate(hidden))
    torch.testing.assert_close(gated(hidden), routed(hidden) + gate * plain.shared(hidden))


def test_over_capacity_later_tokens_are_passed_by_in_training_only() -> None:
    made = mixture(Experts(count=4, active=1, width=8, capacity=1.0))
    torch.nn.init.zeros_(made.router.weight)  # all tie: every token goes to one expert
    whole = made(hidden).flatten(0, 1)
    limited = made.train()(hidden).flatten(0, 1)
    room = math.ceil(18 / 4)
    torch.testing.assert_close(limited[:room], whole[:room])
    assert not limited[room:].any()


def test_balance_and_z_losses_by_hand() -> None:
    even, all_to_one = torch.full((6, 4), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(6, -1)
    assert float(balance_loss(even, torch.tensor([3, 3, 3, 3]))) == pytest.approx(1)
    assert float(balance_loss(all_to_one, torch.tensor([12, 0, 0, 0]))) == pytest.approx(4)
    assert float(balance_loss(even * 3, torch.tensor([6, 6, 0, 0]))) == pytest.approx(1)
    logits = torch.tensor([[math.log(2), math.log(3)], [0.0, 0.0]])
    assert float(z_loss(logits)) == pytest.approx((math.log(5) ** 2 + math.log(2) ** 2) / 2)


def test_losses_are_of_the_last_pass_in_training_and_reach_the_router() -> None:
    model = Transformer(DECODERS["qwen 2 moe"])
    model.eval()(ids)
    assert model.auxiliary_losses() == {}
    model.train()(ids)
    losses = model.auxiliary_losses()
    assert set(losses) == {"balance", "router_z"}
    assert 0.01 <= losses["balance"].item() < 0.02  # 1 when even, times its weight
    sum(losses.values(), torch.zeros(())).backward()
    assert model.get_parameter("blocks.0.feed_forward.router.weight").grad is not None


def test_moving_the_bias_evens_the_load_out() -> None:
    made = mixture(replace(MIXTURE, active=1, router="sigmoid", balance="bias", balance_weight=0.02)).train()
    assert made.router.bias is not None
    made.router.weight.data[0] += 2 * hidden.mean((0, 1))
    x = torch.randn(1, 400, 24, generator=torch.Generator().manual_seed(2)) + hidden.mean((0, 1))

    def spread() -> float:
        made(x)
        assert made.load_E is not None
        return float(made.load_E.max() / made.load_E.float().mean())

    before = spread()
    for _ in range(100):
        made.balance()
        after = spread()
    assert after < 1.3 < before
    assert made.losses == {}


def test_mixtures_are_counted_by_what_a_token_uses() -> None:
    config = replace(TINY, kv_heads=None, experts=replace(MIXTURE, shared=20))
    model = Transformer(config)
    one = 3 * 24 * 16
    assert model.parameter_count() - model.parameter_count(active=True) == 2 * 2 * one
    matrices = 2 * (4 * 24 * 24 + 4 * 24 + 2 * one + 3 * 24 * 20) + 50 * 24
    assert model.flops_per_token() == 6 * matrices + 6 * 2 * 24 * 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"active": 5}, "5 experts are active, of 4"), ({"groups": 3}, "can't be in 3 groups"),
     ({"groups": 4, "active_groups": 1}, "1 of 4 groups have fewer than 2")],
)  # fmt: skip
def test_mixtures_that_contradict_themselves(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(MIXTURE, **changes)  # type: ignore[arg-type]
