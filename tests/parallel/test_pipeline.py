"""Pipelines against one process: each schedule, with what else there is, and what can't be cut."""

from typing import Any

import pytest

from fromzero.model.config import Experts
from tests.parallel.parity import Case, Row, compare

MIXTURE = Experts(count=4, active=2, width=32, balance="loss", balance_weight=0.1, z_weight=0.01)
GPT2 = {"tied": False, "norm": "layer", "positions": "learned", "activation": "gelu", "bias": True}


def case(
    name: str, ranks: int = 2, micro_batches: int = 4, model: dict[str, Any] | None = None, **parallel: Any
) -> Case:
    return Case(name, ranks, {"pipeline": 2, **parallel}, {"layers": 4, **(model or {})}, micro_batches=micro_batches)


CASES = [
    case("pipeline, GPipe", schedule="gpipe"),
    case("pipeline, 1F1B, 3 layers", model={"layers": 3}),
    case("pipeline, interleaved", schedule="interleaved"),
    case("pipeline, zero bubble", schedule="zero_bubble"),
    case("pipeline, 1F1B, GPT-2, untied", model=GPT2),
    case("pipeline, zero bubble, experts", schedule="zero_bubble", model={"experts": MIXTURE}),
    case("pipeline, 1F1B, experts, further tokens", model={"experts": MIXTURE, "predict_ahead": 1, "tied": False}),
    case("pipeline of 4, 1F1B", ranks=4, pipeline=4),
    case("pipeline of 4, GPipe, 2 micro-batches", ranks=4, pipeline=4, schedule="gpipe", micro_batches=2),
    case("pipeline x DDP", ranks=4),
    case("pipeline x FSDP", ranks=4, shard=2),
    case("pipeline, zero bubble x FSDP", ranks=4, shard=2, schedule="zero_bubble"),
    case("pipeline, interleaved x FSDP, experts", ranks=4, shard=2, schedule="interleaved", model={"experts": MIXTURE}),
    case("pipeline x TP", ranks=4, tensor=2),
    case("pipeline, zero bubble x TP", ranks=4, tensor=2, schedule="zero_bubble", sequence=False),
]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()
