"""Pipelines against one process: each schedule, with what else there is, and what can't be cut."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from fromzero.errors import UserError
from fromzero.model import EncoderDecoder, ModelConfig, Transformer
from fromzero.model.config import Experts
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.parallel.textbook.one_f_one_b import OneForwardOneBackward
from fromzero.training.objective import NextToken
from fromzero.training.precision import LossScaler
from tests.parallel.parity import Case, compare
from tests.parallel.ranks import run_ranks

MIXTURE = Experts(count=4, active=2, width=32, balance="loss", balance_weight=0.1, z_weight=0.01)
FOUR: dict[str, Any] = {"layers": 4}
BERT = {"kind": "encoder", "norm": "layer", "norm_placement": "post", "positions": "learned", "head_bias": True}
GPT2 = {"tied": False, "norm": "layer", "positions": "learned", "activation": "gelu", "bias": True}


def case(
    name: str, ranks: int = 2, micro_batches: int = 4, model: dict[str, Any] | None = None, **parallel: Any
) -> Case:
    return Case(name, ranks, {"pipeline": 2, **parallel}, {**FOUR, **(model or {})}, micro_batches=micro_batches)


QUICK = [
    case("pipeline, GPipe", schedule="gpipe"),
    case("pipeline, 1F1B, 3 layers", model={"layers": 3}),
    case("pipeline, interleaved, BERT", schedule="interleaved", model=BERT),
    case("pipeline, zero bubble, experts", schedule="zero_bubble", model={"experts": MIXTURE}),
    case("pipeline, zero bubble x FSDP", ranks=4, shard=2, schedule="zero_bubble"),
    Case("pipeline x EP", 4, {"pipeline": 2, "shard": 2, "expert": 2}, {"experts": MIXTURE}, steps=3, micro_batches=4),
]
LONG = [
    case("pipeline, interleaved", schedule="interleaved"),
    case("pipeline, zero bubble", schedule="zero_bubble"),
    case("pipeline, 1F1B, GPT-2, untied", model=GPT2),
    case("pipeline, 1F1B, experts, further tokens", model={"experts": MIXTURE, "predict_ahead": 1, "tied": False}),
    Case("pipeline, 1F1B, recomputed", 2, {"pipeline": 2}, FOUR, {"recompute": "full"}, micro_batches=4),
    Case("pipeline, 1F1B, Muon", 2, {"pipeline": 2}, FOUR, {"optimizer": "muon"}, micro_batches=4),
    case("pipeline of 4, 1F1B", ranks=4, pipeline=4),
    case("pipeline of 4, GPipe, 2 micro-batches", ranks=4, pipeline=4, schedule="gpipe", micro_batches=2),
    case("pipeline x DDP", ranks=4),
    case("pipeline x FSDP", ranks=4, shard=2),
    case("pipeline, interleaved x FSDP, experts", ranks=4, shard=2, schedule="interleaved", model={"experts": MIXTURE}),
    case("pipeline x TP", ranks=4, tensor=2),
    case("pipeline, zero bubble x TP", ranks=4, tensor=2, schedule="zero_bubble", sequence=False),
    case("pipeline x context", ranks=4, context=2),
]
CASES = [*QUICK, *LONG]


def test_schedules_are_equal_to_one_process() -> None:
    for row in compare(QUICK):
        row.check()


@pytest.mark.slow
def test_pairs_are_equal_to_one_process() -> None:
    for row in compare(LONG):
        row.check()


def both_pipelines(micro_batches: int) -> tuple[float, float, list[Any], list[Any]]:
    """Losses and gradients of this rank's stage by torch's schedule and by the textbook's."""
    place, places = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(place)
    stage = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8))
    other = copy.deepcopy(stage)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2 * micro_batches, 8, generator=generator) for _ in range(2))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().sum()

    losses: list[Tensor] = []
    schedule = Schedule1F1B(
        PipelineStage(stage, place, places, torch.device("cpu")), micro_batches, loss_fn=loss, scale_grads=False
    )
    schedule.step(*([x] if place == 0 else []), target=y, losses=losses)
    plain = OneForwardOneBackward(other, (2, 8))
    total = plain.step(x.split(2), y.split(2), loss)
    gradients = [[p.grad.numpy() for p in module.parameters() if p.grad is not None] for module in (stage, other)]
    return float(sum(losses)), total, gradients[0], gradients[1]


@pytest.mark.parametrize("micro_batches", [3, 5])
def test_the_textbook_is_equal_to_torch(micro_batches: int) -> None:
    for place, (loss, own, theirs, ours) in enumerate(run_ranks(3, both_pipelines, micro_batches)):
        assert own == pytest.approx(loss, abs=1e-5)
        assert (own > 0) == (place == 2)
        assert len(ours) == 4
        for one, other in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


SHAPE: dict[str, Any] = {"vocab_size": 64, "context": 16, "layers": 2, "width": 32, "heads": 4}


def refused(cases: list[tuple[dict[str, Any], dict[str, Any], int]]) -> list[str]:
    """What is said of pipelines of some settings, models and rows of a micro-batch, for a batch of 4 rows."""
    said = []
    ids = torch.zeros(4, 16, dtype=torch.int64)
    for parallel, shape, rows in cases:
        config = ModelConfig(**{**SHAPE, **shape})
        model = (EncoderDecoder if config.kind == "encoder_decoder" else Transformer)(config)
        try:
            world = World(torch.device("cpu"), dist.get_rank(), dist.get_world_size())
            fleet = parallelize(NextToken(model), ParallelConfig(pipeline=2, **parallel), world)
            fleet.gradients({"ids_BT": ids, "targets_BT": ids}, rows, 64)
            said.append("")
        except UserError as error:
            said.append(str(error))
    return said


def test_what_does_not_fit_is_refused() -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], int, str]] = [
        ({"schedule": "zero_bubble"}, {}, 1, "4 stages need at least 4 layers, but the model has 2"),
        ({}, {"kind": "encoder_decoder", "positions": "relative"}, 1, "an encoder and a decoder"),
        ({}, {"positions": "relative"}, 1, "relative positions"),
        ({}, {}, 3, "micro_batch_size (3) makes 1.33333 micro-batches of the 4 rows"),
        ({}, {}, 4, "with the schedule 1f1b needs at least 2"),
        ({"schedule": "interleaved", "stages": 1}, {}, 4, "needs a multiple of 2"),
    ]
    first, second = run_ranks(2, refused, [case[:3] for case in cases])
    assert first == second
    for said, (*_, wanted) in zip(first, cases, strict=True):
        assert wanted in said


def stage_of(kind: str) -> tuple[list[str], list[float], list[float]]:
    """Names of what this rank holds, the losses of two passes over one batch, and what is drawn next."""
    config = ModelConfig(**{**SHAPE, "layers": 4, "dropout": 0.5})
    model = Transformer(config)
    world = World(torch.device("cpu"), dist.get_rank(), dist.get_world_size())
    fleet = parallelize(NextToken(model), ParallelConfig(pipeline=2, schedule=kind), world)  # type: ignore[arg-type]
    torch.manual_seed(fleet.draws)
    ids = torch.zeros(4, 16, dtype=torch.int64)
    losses = [fleet.gradients({"ids_BT": ids, "targets_BT": ids}, 1, 64) for _ in range(2)]
    return [name for name, _ in fleet.named_parameters()], losses, torch.rand(3).tolist()


def test_ranks_hold_their_layers_only_and_drop_out_other_channels() -> None:
    (first, losses, draws), (last, _, others) = run_ranks(2, stage_of, "interleaved")
    assert {name.split(".")[1] for name in first if name.startswith("blocks.")} == {"0", "2"}
    assert {name.split(".")[1] for name in last if name.startswith("blocks.")} == {"1", "3"}
    assert "token_embedding.weight" in first
    assert "token_embedding.weight" in last, "tied"
    assert "final_norm.weight" in last
    assert "final_norm.weight" not in first
    assert losses[0] != losses[1], "dropout"
    assert draws != others


def in_float16() -> list[bool]:
    """Whether a step is taken whose gradients overflow on the last stage alone, and the next; if the scale fell."""
    model = Transformer(ModelConfig(**SHAPE), 0, torch.float16)
    world = World(torch.device("cpu"), dist.get_rank(), dist.get_world_size())
    fleet, scaler = parallelize(NextToken(model), ParallelConfig(pipeline=2), world), LossScaler(torch.float16)
    ids, taken = torch.arange(64).view(4, 16), []
    for factor in (math.inf, 1.0):
        loss = fleet.gradients({"ids_BT": ids, "targets_BT": ids}, 1, 64, scaler.scale)
        if not world.first:
            dict(fleet.named_parameters())["final_norm.weight"].grad.mul_(factor)  # type: ignore[union-attr]
        scaler.unscale(fleet)
        taken.append(scaler.allows(loss, fleet.clip(1.0)))
        for _, parameter in fleet.named_parameters():
            parameter.grad = None
    return [*taken, scaler.scale == 2.0**15]


def test_all_stages_leave_a_step_out_when_one_overflows() -> None:
    assert run_ranks(2, in_float16) == [[False, True, True]] * 2
