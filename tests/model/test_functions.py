"""The plain functions against torch's own, and the properties that define them."""

import math

import pytest
import torch
import torch.nn.functional as F

from fromzero.model import functions
from fromzero.model.fast_norm import fast_rms_norm

x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0)) * 4
weight, bias = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (functions.softmax(x), x.softmax(-1)),
        (functions.rms_norm(x, weight, 1e-5), F.rms_norm(x, (16,), weight, 1e-5)),
        (functions.layer_norm(x, weight, bias, 1e-5), F.layer_norm(x, (16,), weight, bias, 1e-5)),
        (functions.layer_norm(x, weight, None, 1e-5), F.layer_norm(x, (16,), weight, None, 1e-5)),
        (functions.gelu(x), F.gelu(x)),
        (functions.gelu_tanh(x), F.gelu(x, approximate="tanh")),
        (functions.silu(x), F.silu(x)),
        (functions.relu_squared(x), F.relu(x) ** 2),
        (functions.swiglu(x, x + 1), F.silu(x) * (x + 1)),
        (functions.geglu(x, x + 1), F.gelu(x) * (x + 1)),
    ],
)
def test_equal_to_torch(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs)


def test_softmax_does_not_overflow() -> None:
    torch.testing.assert_close(functions.softmax(torch.tensor([1e4, 1e4])), torch.tensor([0.5, 0.5]))


def test_attention_is_torchs_with_boolean_masks() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    for mask in (None, functions.causal_mask(7, 7)):
        theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        torch.testing.assert_close(functions.scaled_dot_product_attention(q, k, v, mask), theirs)


def test_the_causal_mask_is_aligned_to_the_last_key() -> None:
    assert functions.causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotary_turns_by_position_and_scores_see_only_distance(layout: str) -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def score(q_at: int, k_at: int) -> torch.Tensor:
        turned = []
        for vector, position in ((q, q_at), (k, k_at)):
            cos, sin = functions.rotary_angles(torch.tensor([position]), functions.rotary_frequencies(8, 10000.0))
            turned.append(functions.rotary(vector, cos, sin, layout))
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(5, 3), score(1005, 1003), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(score(5, 3), score(5, 4))
    cos, sin = functions.rotary_angles(torch.tensor([0]), functions.rotary_frequencies(8, 10000.0))
    torch.testing.assert_close(functions.rotary(q, cos, sin, layout), q)


def test_the_two_rotary_layouts_are_one_up_to_the_order_of_channels() -> None:
    q = torch.randn(1, 1, 3, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = functions.rotary_angles(torch.arange(3), functions.rotary_frequencies(8, 10000.0))
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])  # interleaved pairs (2i, 2i+1) as halves (i, i+4)
    interleaved = functions.rotary(q, cos, sin, "interleaved")
    torch.testing.assert_close(functions.rotary(q[..., order], cos, sin, "half"), interleaved[..., order])
    with pytest.raises(ValueError, match="layout"):
        functions.rotary(q, cos, sin, "other")


def test_rotary_angles_by_hand() -> None:
    cos, sin = functions.rotary_angles(torch.tensor([3]), functions.rotary_frequencies(4, 100.0))
    torch.testing.assert_close(cos, torch.tensor([[math.cos(3), math.cos(0.3)]]))
    torch.testing.assert_close(sin, torch.tensor([[math.sin(3), math.sin(0.3)]]))


def test_cross_entropy_by_hand_and_by_torch() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0], [1.0, 2.0]])
    found = functions.cross_entropy(logits, torch.tensor([1, 0, -100]))
    torch.testing.assert_close(found, torch.tensor([-math.log(0.75), math.log(2), 0.0]))
    targets = torch.tensor([0, 1, 1])
    torch.testing.assert_close(
        functions.cross_entropy(logits, targets), F.cross_entropy(logits, targets, reduction="none")
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_rms_norm_has_the_values_and_gradients_of_the_plain_one(dtype: torch.dtype) -> None:
    results = []
    for norm in (functions.rms_norm, fast_rms_norm):
        a, w = x.detach().clone().to(dtype).requires_grad_(), weight.clone().requires_grad_()
        y = norm(a, w, 1e-5)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype))
        results.append((y, a.grad, w.grad))
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05}
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, **tolerance)
