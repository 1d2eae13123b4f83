"""Ranks that share matrices and parts of the sequence, against one process; every family there is."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils._python_dispatch import TorchDispatchMode

from fromzero.errors import UserError
from fromzero.model import EncoderDecoder, ModelConfig, Transformer
from fromzero.model.config import Experts, Latent
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.parallel.mesh import Mesh
from fromzero.parallel.tensor import split
from fromzero.parallel.textbook.tensor_parallel import ColumnParallel, RowParallel
from fromzero.training.objective import NextToken
from fromzero.training.precision import use_float8
from tests.parallel.parity import Case, Row, compare
from tests.parallel.ranks import run_ranks

GPT2 = {"norm": "layer", "positions": "learned", "activation": "gelu_tanh", "bias": True}
UNTIED = {"tied": False, "kv_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "GPT-2": GPT2,
    "grouped heads, untied": UNTIED,
    "one key head, parallel": {"kv_heads": 1, "qkv_bias": True, "parallel": True},
    "Gemma 2": {
        "norm_placement": "sandwich",
        "activation": "geglu_tanh",
        "attention_softcap": 3.0,
        "logit_softcap": 5.0,
        "window": 6,
        "full_every": 2,
        "embedding_scale": 5.6,
        "qk_norm": "head",
    },
    "OLMo 2": {"norm_placement": "output", "qk_norm": "full", "tied": False},
    "GPT-OSS": {"sinks": True, "experts": Experts(4, 2, width=32, balance_weight=1.0, z_weight=0.1)},
    "DeepSeek": {
        "latent": Latent(kv_rank=8, query_rank=12, nope_width=6, rope_width=4, value_width=6),
        "experts": Experts(4, 2, width=16, shared=16, shared_gate=True, router="sigmoid", balance="bias", capacity=1.5),
        "predict_ahead": 1,
    },
    "BERT": {
        **GPT2,
        "kind": "encoder",
        "norm_placement": "post",
        "embedding_norm": True,
        "token_types": 2,
        "head_bias": True,
    },
    "ALiBi": {"positions": "alibi", "logit_scale": 0.5},
    "T5's biases": {"positions": "relative", "attention_scale": 1.0},
}
CASES = [
    Case("TP", 2, {"tensor": 2, "sequence": False}),
    Case("TP and SP", 2, {"tensor": 2}, train={"recompute": "selective"}),
    Case("TP x DDP", 4, {"tensor": 2}, steps=3),
    Case("TP x FSDP", 4, {"tensor": 2, "shard": 2}, UNTIED),
    Case("TP x FSDP, Muon", 4, {"tensor": 2, "shard": 2}, train={"optimizer": "muon"}, steps=6),
    *(Case(f"TP and SP, {name}", 2, {"tensor": 2}, shape, steps=3) for name, shape in FAMILIES.items()),
]
SHAPE: dict[str, Any] = {"vocab_size": 96, "context": 8, "layers": 1, "width": 16, "heads": 4, "ffn_width": 32}


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()


class Widths(TorchDispatchMode):
    """Notes the last dimension of all that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dim() > 1:
            self.seen.add(out.shape[-1])
        return out


def _encoder_decoder() -> tuple[float, dict[str, Tensor]]:
    config = ModelConfig(**SHAPE, kind="encoder_decoder", positions="relative", bias=True, tied=False)
    one, many = EncoderDecoder(config, seed=1), EncoderDecoder(config, seed=1)
    split(many, Mesh("cpu", {"pipeline": 1, "replicate": 1, "shard": 1, "context": 1, "tensor": 2}), sequence=True)
    ids = torch.randint(96, (2, 2, 8), generator=torch.Generator().manual_seed(0))
    losses = []
    for model in (one, many):
        loss = model.head.loss(model.hidden(ids[0], ids[1]).flatten(0, 1), model.head_weight, ids[1].flatten())
        loss.backward()
        losses.append(float(loss))
    assert all(isinstance(parameter, DTensor) for parameter in many.parameters())
    found = {name: p.grad.full_tensor() for name, p in many.named_parameters()}  # type: ignore[union-attr]
    expected = {name: p.grad for name, p in one.named_parameters()}
    return losses[1] - losses[0], {name: found[name] - grad for name, grad in expected.items() if grad is not None}


def _logits() -> tuple[set[int], float]:
    """Widths of what the loss computes, and by how much the logits that can be asked for are others."""
    model = Transformer(ModelConfig(**SHAPE), seed=1)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    expected = model.head(x, model.head_weight)
    split(model, Mesh("cpu", {"pipeline": 1, "replicate": 1, "shard": 1, "context": 1, "tensor": 2}), sequence=True)
    with Widths() as widths:
        model.head.loss(x.requires_grad_(), model.head_weight, torch.tensor([0, 50, 95, -100, 3])).backward()
    return widths.seen, float((model.head(x, model.head_weight) - expected).abs().max())


def _refused() -> list[str]:
    messages = []
    three = {"heads": 3, "width": 24}
    experts = {"experts": Experts(2, 1, width=31)}
    for shape in (
        three,
        {"vocab_size": 97},
        {"kv_heads": 1, "qk_norm": "full"},
        {"ffn_width": 33},
        experts,
        {"context": 9},
    ):
        objective = NextToken(Transformer(ModelConfig(**{**SHAPE, **shape})))
        with pytest.raises(UserError) as error:
            parallelize(objective, ParallelConfig(tensor=2), World(torch.device("cpu"), 0, 2))
        messages.append(str(error.value))
    return messages


def _float8() -> tuple[list[int], list[float]]:
    """How many layers compute in 8 bits on one device and where two share them, and the loss of each."""
    counts, losses = [], []
    for parallel, size in ((ParallelConfig(), 1), (ParallelConfig(tensor=2), 2)):
        shape = ModelConfig(**{**SHAPE, "width": 32, "ffn_width": 48})
        objective = NextToken(Transformer(shape, 1, torch.bfloat16))
        fleet = parallelize(objective, parallel, World(torch.device("cpu"), torch.distributed.get_rank(), size))
        counts.append(use_float8(objective.model, "float8"))
        ids = torch.randint(96, (2, 9), generator=torch.Generator().manual_seed(0))
        losses.append(fleet.gradients(objective.prepare(ids[:, :-1], ids[:, 1:], 0), None, 16))
    return counts, losses


def _textbook() -> list[float]:
    """Differences of outputs and gradients to the whole layers, and to torch's."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))
    ours = nn.Sequential(ColumnParallel(whole[0]), nn.GELU(), RowParallel(whole[2]))  # type: ignore[arg-type]
    torchs = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))
    torchs.load_state_dict(whole.state_dict())
    parallelize_module(torchs, init_device_mesh("cpu", (2,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})
    x, results = torch.randn(3, 6), []
    for model in (ours, whole, torchs):
        given = x.clone().requires_grad_()
        y = model(given)
        y.square().sum().backward()
        results.append([y, given.grad])
    parts = [(p.grad, q.grad.to_local()) for p, q in zip(ours.parameters(), torchs.parameters(), strict=True)]  # type: ignore[union-attr]
    parts += [(a, b) for others in results[1:] for a, b in zip(results[0], others, strict=True)]
    return [float((a - b).abs().max()) for a, b in parts]


def _pieces() -> tuple[Any, ...]:
    return _encoder_decoder(), _logits(), _refused(), _textbook(), _float8()


@pytest.fixture(scope="module")
def pieces() -> tuple[Any, ...]:
    return tuple(run_ranks(2, _pieces)[1])


def test_encoder_and_decoder_are_split_too(pieces: tuple[Any, ...]) -> None:
    loss, gradients = pieces[0]
    assert abs(loss) < 1e-5
    assert len(gradients) > 30
    assert max(float(difference.abs().max()) for difference in gradients.values()) < 1e-5


def test_no_rank_has_logits_of_the_whole_vocabulary(pieces: tuple[Any, ...]) -> None:
    widths, difference = pieces[1]
    assert 48 in widths
    assert 96 not in widths
    assert difference < 1e-6


def test_what_cannot_be_split_is_refused(pieces: tuple[Any, ...]) -> None:
    names = (
        "model.heads, 3",
        "model.vocab_size",
        "model.kv_heads, 1",
        "model.ffn_width, 33",
        "model.experts.width, 31",
    )
    for name, message in zip((*names, "model.context, 9"), pieces[2], strict=True):
        assert message.startswith("parallel.tensor (2) does not divide")
        assert name in message


def test_textbook_equals_torch_and_whole_layers(pieces: tuple[Any, ...]) -> None:
    assert max(pieces[3]) < 1e-6


def test_the_parts_of_matrices_have_to_fit_the_kernels_of_float8(pieces: tuple[Any, ...]) -> None:
    counts, (one, many) = pieces[4]
    assert counts == [7, 4], "24 of 48 hidden channels are no multiple of 16"
    assert many == pytest.approx(one, rel=0.01)
