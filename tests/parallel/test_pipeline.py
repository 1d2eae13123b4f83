"""Pipelines against one process: each schedule, with what else there is, and what can't be cut."""

import pytest

from fromzero.model.config import Experts
from tests.parallel.parity import Case, Row, compare

MIXTURE = {"experts": Experts(count=4, active=2, width=32, balance="loss", balance_weight=0.1, z_weight=0.01)}
FOUR = {"layers": 4}


def case(name: str, ranks: int = 2, micro_batches: int = 4, model: dict | None = None, **parallel: object) -> Case:
    return Case(name, ranks, {"pipeline": 2, **parallel}, {"layers": 4, **(model or {})}, micro_batches=micro_batches)


CASES = [
    case("pipeline, GPipe", schedule="gpipe"),
    case("pipeline, 1F1B, 3 layers", model={"layers": 3}),
    case("pipeline, interleaved", schedule="interleaved"),
    case("pipeline, zero bubble", schedule="zero_bubble"),
]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()
