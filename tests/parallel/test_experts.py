"""Experts on other ranks, against one process."""

import pytest

from fromzero.model.config import Experts
from tests.parallel.parity import Case, Row, compare

BIASED = {"experts": Experts(4, 2, width=16, balance="bias", balance_weight=0.1)}
WITH_LOSSES = {"experts": Experts(4, 2, width=16, shared=16, z_weight=0.01, dense_layers=1), "tied": False}
CASES = [
    Case("DDP, mixture", 2, {}, BIASED),
    Case("EP", 2, {"shard": 2, "expert": 2}, BIASED),
    Case("EP, auxiliary losses, untied", 2, {"shard": 2, "expert": 2}, WITH_LOSSES),
    Case("EP x FSDP", 4, {"shard": 4, "expert": 2}, BIASED),
    Case("EP x DDP", 4, {"replicate": 2, "shard": 2, "expert": 2}, WITH_LOSSES),
]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()
