"""Ranks that share each sequence, against one process."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Latent
from fromzero.parallel import ParallelConfig, World, context, parallelize
from fromzero.parallel.context import Circle, Part, places
from fromzero.parallel.fleet import full
from fromzero.parallel.textbook.ring_attention import ring_attention
from fromzero.training.objective import NextToken
from tests.parallel.parity import Case, Row, compare
from tests.parallel.ranks import run_ranks

FAMILIES: dict[str, dict[str, Any]] = {
    "learned positions, one key head": {"tied": False, "positions": "learned", "norm": "layer", "kv_heads": 1},
    "Gemma 2": {"attention_softcap": 3.0, "window": 5, "full_every": 2, "kv_heads": 2},
    "GPT-OSS's sinks": {"sinks": True, "window": 6},
    "latent": {"latent": Latent(kv_rank=8, nope_width=6, rope_width=4, value_width=6)},
    "BERT": {"kind": "encoder", "positions": "learned"},
    "ALiBi": {"positions": "alibi"},
    "T5's biases": {"positions": "relative"},
}
CASES = [
    Case("CP", 2, {"context": 2}, train={"recompute": "selective"}),
    Case("CP of 4", 4, {"context": 4}, steps=3),
    Case("CP x DDP", 4, {"context": 2}, steps=3),
    Case("CP x FSDP", 4, {"context": 2, "shard": 2}, {"tied": False, "kv_heads": 2}),
    Case("TP x CP", 4, {"tensor": 2, "context": 2}),
    Case("TP x CP, ALiBi", 4, {"tensor": 2, "context": 2}, {"positions": "alibi", "sinks": True}, steps=3),
    *(Case(f"CP, {name}", 2, {"context": 2}, shape, steps=3) for name, shape in FAMILIES.items()),
]
SHAPE: dict[str, Any] = {"vocab_size": 64, "context": 16, "layers": 2, "width": 32, "heads": 4, "ffn_width": 32}


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()


def test_ranks_have_chunks_from_both_ends() -> None:
    assert places(12, 0, 3).tolist() == [0, 1, 10, 11]
    assert places(12, 2, 3).tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), pytest.param("cuda", torch.bfloat16, marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("triangle", [False, True])
def test_kernels_of_torch_give_logarithms_and_gradients(device: str, dtype: torch.dtype, triangle: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(2, heads, 16, 32, generator=generator).to(device, dtype) for heads in (4, 2, 2, 4))
    circle, part = Circle.__new__(Circle), Part(slice(0, 16), slice(0, 16), triangle)
    out, lse = circle.attention(part, q, k, v)
    given = [x.detach().requires_grad_() for x in (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))]
    expected = F.scaled_dot_product_attention(given[0], given[1], given[2], is_causal=triangle, scale=1.0)
    expected.backward(grad)
    scores = (given[0] @ given[1].transpose(-2, -1)).float()
    seen = torch.ones(16, 16, dtype=torch.bool, device=device).tril(0 if triangle else 16)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse, scores.where(seen, float("-inf")).logsumexp(-1), atol=tolerance, rtol=tolerance)
    for found, x in zip(circle.gradients(part, q, grad, out, lse, k, v), given, strict=True):
        torch.testing.assert_close(found, x.grad, atol=tolerance, rtol=tolerance)


def _documents(dtype: torch.dtype) -> tuple[list[float], float]:
    """Losses of one process and of two, and the largest difference of their gradients; scores a few rows at a time."""
    context.SCORES_BYTES = 4096
    ids = torch.randint(1, 64, (4, 17), generator=torch.Generator().manual_seed(0))
    ids[:, [0, 5, 11]] = 0  # where documents begin
    losses, gradients = [], []
    for size, config in ((1, ParallelConfig()), (2, ParallelConfig(context=2))):
        model = Transformer(ModelConfig(**SHAPE, kv_heads=2, window=4, full_every=2), 1, dtype)
        objective = NextToken(model, begins=0)
        fleet = parallelize(objective, config, World(torch.device("cpu"), torch.distributed.get_rank(), size))
        batch = objective.prepare(ids[:, :-1], ids[:, 1:], 0)
        assert int(batch["documents_BT"].max()) == 3
        losses.append(fleet.gradients(batch, 2, 64))
        gradients.append({name: full(p.grad) for name, p in fleet.named_parameters() if p.grad is not None})
    one, many = gradients
    return losses, max(float((many[name] - grad).abs().max()) for name, grad in one.items())


def _refused() -> list[str]:
    messages = []
    for ahead, tokens in ((1, 16), (0, 14)):
        objective = NextToken(Transformer(ModelConfig(**SHAPE, predict_ahead=ahead)))
        with pytest.raises(UserError) as error:
            _first_loss(objective, torch.zeros(2, tokens, dtype=torch.int64))
        messages.append(str(error.value))
    return messages


def _first_loss(objective: NextToken, ids_BT: Tensor) -> float:
    fleet = parallelize(objective, ParallelConfig(context=2), World(torch.device("cpu"), 0, 2))
    return fleet.gradients(objective.prepare(ids_BT, ids_BT, 0), None, 1)


def _textbook() -> float:
    """The largest difference to attention over the whole sequence, of outputs and gradients."""
    whole = torch.randn(3, 2, 2, 12, 8, generator=torch.Generator().manual_seed(0))
    mine = slice(6 * torch.distributed.get_rank(), 6 * torch.distributed.get_rank() + 6)
    given, parts = whole.clone().requires_grad_(), whole[..., mine, :].clone().requires_grad_()
    q, k, v = given
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    found = ring_attention(parts[0], parts[1], parts[2])
    expected.square().sum().backward()
    found.square().sum().backward()
    assert given.grad is not None
    assert parts.grad is not None
    pairs = (found, expected[..., mine, :]), (parts.grad, given.grad[..., mine, :])
    return max(float((a - b).abs().max()) for a, b in pairs)


def _pieces() -> tuple[Any, ...]:
    return _documents(torch.float32), _documents(torch.bfloat16), _refused(), _textbook()


@pytest.fixture(scope="module")
def pieces() -> tuple[Any, ...]:
    return tuple(run_ranks(2, _pieces)[0])


def test_tokens_see_their_own_document_only(pieces: tuple[Any, ...]) -> None:
    (one, many), difference = pieces[0]
    assert many == pytest.approx(one, abs=1e-6)
    assert difference < 1e-6


def test_bfloat16_is_as_far_off_as_it_is(pieces: tuple[Any, ...]) -> None:
    (one, many), difference = pieces[1]
    assert many == pytest.approx(one, abs=2e-3)
    assert difference < 2e-3


def test_what_cannot_be_shared_is_refused(pieces: tuple[Any, ...]) -> None:
    ahead, odd = pieces[2]
    assert ahead.startswith("parallel.context can't share the sequences of models that predict further tokens")
    assert "can be cut into 4 equal parts, but they have 14 tokens" in odd


def test_textbook_equals_attention_over_the_whole_sequence(pieces: tuple[Any, ...]) -> None:
    assert pieces[3] < 1e-5
