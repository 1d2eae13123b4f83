"""Blocks that recompute gather, split and exchange a second time in the backward pass: the same training. So do those
that are compiled."""

import pytest

from tests.parallel.parity import Case, Row, compare

CASES = [
    Case("FSDP, full recomputation", 2, {"shard": 2}, train={"recompute": "full"}, steps=3),
    Case("FSDP, selective recomputation", 2, {"shard": 2}, train={"recompute": "selective"}, steps=3),
    Case("TP, full recomputation", 2, {"tensor": 2}, train={"recompute": "full"}, steps=3),
    Case("TP, selective recomputation", 2, {"tensor": 2}, train={"recompute": "selective"}, steps=3),
    Case("CP, full recomputation", 2, {"context": 2}, train={"recompute": "full"}, steps=3),
]
COMPILED = [
    Case(f"compiled, {name}", 2, parallel, train={"compile": "always"}, steps=3)
    for name, parallel in {"DDP": {}, "FSDP": {"shard": 2}, "TP": {"tensor": 2}, "CP": {"context": 2}}.items()
]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()


@pytest.mark.slow
def test_compiled_blocks_are_equal_to_one_process() -> None:
    for row in compare(COMPILED):
        row.check()
