"""Blocks that recompute gather, split and exchange a second time in the backward pass: the same training."""

import pytest

from tests.parallel.parity import Case, Row, compare

CASES = [
    Case("FSDP, full recomputation", 2, {"shard": 2}, train={"recompute": "full"}, steps=3),
    Case("FSDP, selective recomputation", 2, {"shard": 2}, train={"recompute": "selective"}, steps=3),
    Case("TP, full recomputation", 2, {"tensor": 2}, train={"recompute": "full"}, steps=3),
    Case("TP, selective recomputation", 2, {"tensor": 2}, train={"recompute": "selective"}, steps=3),
    Case("CP, full recomputation", 2, {"context": 2}, train={"recompute": "full"}, steps=3),
]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()
