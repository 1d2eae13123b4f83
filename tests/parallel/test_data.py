"""Ranks that compute different rows: DDP, FSDP, HSDP, against one process."""

import pytest

from tests.parallel.parity import Case, Row, compare

UNTIED = {"tied": False, "kv_heads": 2, "norm": "layer", "positions": "learned", "activation": "gelu"}
CASES = [
    Case("DDP", 2, {}),
    Case("DDP, untied", 2, {}, UNTIED),
    Case("FSDP", 2, {"shard": 2}),
    Case("FSDP, untied", 2, {"shard": 2}, UNTIED),
    Case("HSDP", 4, {"replicate": 2, "shard": 2}),
]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()
