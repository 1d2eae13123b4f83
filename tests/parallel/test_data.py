"""Ranks that compute different rows: DDP, FSDP, HSDP, against one process."""

import pytest

from fromzero.parallel import ParallelConfig
from tests.parallel.parity import Case, Row, compare

UNTIED = {"tied": False, "kv_heads": 2, "norm": "layer", "positions": "learned", "activation": "gelu"}
CASES = [
    Case("DDP", 2, {}),
    Case("DDP, untied", 2, {}, UNTIED),
    Case("FSDP", 2, {"shard": 2}),
    Case("FSDP, untied", 2, {"shard": 2}, UNTIED),
    Case("FSDP, Muon", 2, {"shard": 2}, train={"optimizer": "muon"}),
    Case("FSDP, recomputed, one micro-batch", 2, {"shard": 2}, train={"recompute": "full"}, micro_batches=1),
    Case("HSDP", 4, {"replicate": 2, "shard": 2}),
    Case("HSDP, Muon", 4, {"replicate": 2, "shard": 2}, UNTIED, {"optimizer": "muon"}),
]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()


def test_processes_that_no_dimension_names_share_the_weights_or_copy_them() -> None:
    found = [ParallelConfig(tensor=2, shard=shard).sizes(8) for shard in (0, 1, 2)]
    assert [(sizes["replicate"], sizes["shard"]) for sizes in found] == [(1, 4), (4, 1), (2, 2)]
    assert ParallelConfig(replicate=2, shard=0).sizes(8)["shard"] == 4
