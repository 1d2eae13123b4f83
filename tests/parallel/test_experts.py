"""Experts on other ranks, against one process."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Experts
from fromzero.parallel import Fleet, ParallelConfig, World, parallelize
from fromzero.parallel.fleet import full
from fromzero.training.objective import NextToken
from tests.parallel.parity import Case, Row, compare
from tests.parallel.ranks import run_ranks

BIASED = {"experts": Experts(4, 2, width=16, balance="bias", balance_weight=0.1)}
WITH_LOSSES = {"experts": Experts(4, 2, width=16, shared=16, z_weight=0.01, dense_layers=1), "tied": False}
CASES = [
    Case("DDP, mixture", 2, {}, BIASED),
    Case("EP", 2, {"shard": 2, "expert": 2}, BIASED),
    Case("EP, auxiliary losses, untied", 2, {"shard": 2, "expert": 2}, WITH_LOSSES),
    Case(
        "EP x FSDP, Muon, recomputed", 4, {"shard": 4, "expert": 2}, BIASED, {"optimizer": "muon", "recompute": "full"}
    ),
    Case("EP x CP", 4, {"shard": 2, "expert": 2, "context": 2}, BIASED),
    Case("EP x DDP", 4, {"replicate": 2, "shard": 2, "expert": 2}, WITH_LOSSES),
]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare(CASES)}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_equal_to_one_process(name: str, rows: dict[str, Row]) -> None:
    rows[name].check()


SMALL = ModelConfig(vocab_size=64, context=16, layers=2, width=32, heads=4, experts=Experts(4, 2, width=24))
IDS = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(0))


def place(parallel: Mapping[str, int], dtype: torch.dtype = torch.float32, shape: ModelConfig = SMALL) -> Fleet:
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    objective = NextToken(Transformer(shape, 1, dtype))
    return parallelize(objective, ParallelConfig(**parallel), World(torch.device("cpu"), rank, size))  # type: ignore[arg-type]


def in_bfloat16(parallel: Mapping[str, int]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The dtypes of a block's weights while it computes, and all gradients."""
    fleet = place(parallel, torch.bfloat16)
    seen: dict[str, str] = {}

    def look(name: str, module: nn.Module, _: object) -> None:
        seen.update({f"{name}.{key}": str(weight.dtype) for key, weight in module.named_parameters(recurse=False)})

    for name, module in fleet.parts[0].get_submodule("blocks.0").named_modules():
        module.register_forward_pre_hook(partial(look, name))
    ids = IDS[fleet.data_rank :: fleet.data_size]
    fleet.objective.train()
    fleet.gradients({"ids_BT": ids[:, :-1], "targets_BT": ids[:, 1:]}, 1, IDS[:, 1:].numel())
    gradients = {
        name: full(weight.grad).numpy() for name, weight in fleet.named_parameters() if weight.grad is not None
    }
    return seen, gradients


def test_matrices_travel_in_bfloat16_and_what_is_exact_in_float32() -> None:
    (seen, gradients), _ = run_ranks(2, in_bfloat16, {"shard": 2, "expert": 2})
    _, expected = in_bfloat16({})
    kept = {name for name, dtype in seen.items() if dtype == "torch.float32"}
    assert kept == {"attention_norm.weight", "feed_forward_norm.weight", "feed_forward.router.weight"}
    assert set(seen.values()) == {"torch.float32", "torch.bfloat16"}
    assert "feed_forward.experts.up" in seen
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradients[name].dtype == np.float32
        assert np.linalg.norm(gradients[name] - gradient) < 0.02 * np.linalg.norm(gradient), name


def refusals() -> list[str]:
    """What is said to shapes that don't fit: no experts, 3 of them for 2 ranks."""
    said = []
    for experts in (None, Experts(3, 2, width=24)):
        with pytest.raises(UserError) as error:
            place({"shard": 2, "expert": 2}, shape=replace(SMALL, experts=experts))
        said.append(str(error.value))
    return said


def test_what_can_not_be_spread_is_refused() -> None:
    without, uneven = run_ranks(2, refusals)[0]
    assert "this one has none" in without
    assert "parallel.expert (2) does not divide the 3 experts" in uneven
    with pytest.raises(UserError, match=r"parallel.expert \(3\) does not divide parallel.shard \(4\)"):
        ParallelConfig(shard=4, expert=3).sizes(4)
