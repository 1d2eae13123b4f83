"""Every window once an epoch, the same stream for any number of processes, and restoring is exact."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fromzero.artifact import Artifact
from fromzero.dataset import PackConfig, TokenShards, WindowLoader, pack
from fromzero.errors import UserError

T, B = 12, 12


@pytest.fixture(scope="module")
def shards(packed: Artifact) -> TokenShards:
    return TokenShards(packed.path)


def rows(loader: WindowLoader, batches: int) -> list[list[int]]:
    return [row for _ in range(batches) for row in loader.next_batch()[0].tolist()]


def test_targets_are_the_ids_one_further_on(shards: TokenShards) -> None:
    ids, targets = WindowLoader(shards, T, B).next_batch()
    assert ids.shape == targets.shape == (B, T)
    assert ids.dtype == targets.dtype == torch.int64
    whole = shards[:].tolist()
    windows = {tuple(whole[i : i + T + 1]) for i in range(0, len(whole) - T, T)}
    for x, y in zip(ids.tolist(), targets.tolist(), strict=True):
        assert (*x, y[-1]) in windows
        assert x[1:] == y[:-1]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_each_window_comes_once_an_epoch_over_all_processes(shards: TokenShards, world_size: int) -> None:
    whole = shards[:].tolist()
    windows = sorted(whole[i : i + T] for i in range(0, len(whole) - T, T))
    loaders = [WindowLoader(shards, T, B, 5, rank, world_size) for rank in range(world_size)]
    epochs = B  # so many epochs are a whole number of batches
    dealt = [row for loader in loaders for row in rows(loader, loader.windows * epochs // B)]
    assert sorted(dealt) == sorted(windows * epochs)
    assert [loader.epoch for loader in loaders] == [epochs] * world_size


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_stream_is_the_same_for_any_number_of_processes(shards: TokenShards, world_size: int) -> None:
    alone = WindowLoader(shards, T, B, seed=3)
    together = [WindowLoader(shards, T, B, 3, rank, world_size) for rank in range(world_size)]
    for _ in range(alone.windows // B + 2):  # into the second epoch
        ids, targets = alone.next_batch()
        parts = [loader.next_batch() for loader in together]
        for rank, (x, y) in enumerate(parts):
            assert x.equal(ids[rank::world_size])
            assert y.equal(targets[rank::world_size])
    assert all(loader.state_dict() == alone.state_dict() for loader in together)


def test_epochs_and_seeds_have_orders_of_their_own(shards: TokenShards) -> None:
    loader = WindowLoader(shards, T, 1)
    first, second = rows(loader, loader.windows), rows(loader, loader.windows)
    assert first != second
    assert sorted(first) == sorted(second)
    assert rows(WindowLoader(shards, T, 1, seed=1), loader.windows) != first


@pytest.mark.parametrize("before", [0, 1, 7, 30])
def test_restoring_goes_on_exactly(shards: TokenShards, before: int) -> None:
    one = WindowLoader(shards, T, B, seed=9)
    rows(one, before)
    state = one.state_dict()
    rest = rows(one, 10)
    other = WindowLoader(shards, T, B, seed=9)
    rows(other, 3)
    other.load_state_dict(state)
    assert rows(other, 10) == rest
    assert other.state_dict() == one.state_dict()


def test_another_batch_size_goes_on_in_the_same_stream(shards: TokenShards) -> None:
    one, other = WindowLoader(shards, T, 8, seed=9), WindowLoader(shards, T, 4, seed=9)
    rows(one, 3)
    other.load_state_dict(one.state_dict())
    assert rows(other, 4) == rows(one, 2)


def test_states_of_something_else_are_refused(
    shards: TokenShards, corpus: Artifact, tokenizer_folder: Path, tmp_path: Path
) -> None:
    state = WindowLoader(shards, T, B).state_dict()
    with pytest.raises(UserError, match=r"for context 12, here it is 8"):
        WindowLoader(shards, 8, B).load_state_dict(state)
    with pytest.raises(UserError, match=r"for seed 0, here it is 1"):
        WindowLoader(shards, T, B, seed=1).load_state_dict(state)
    with pytest.raises(UserError, match="lacks 'position'"):
        WindowLoader(shards, T, B).load_state_dict({})
    validation = TokenShards(pack(PackConfig(corpus.path, tokenizer_folder, tmp_path / "t")).path, "validation")
    with pytest.raises(UserError, match=f"fingerprint {shards.fingerprint}, here it is {validation.fingerprint}"):
        WindowLoader(validation, 4, 2).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1000}, r"has \d+ train tokens, but a batch of 1000 windows of 12 needs 12001; lower"),
        ({"context": 100_000}, r"has \d+ train tokens"),
        ({"context": 0}, "should be 1 or more"),
        ({"batch_size": 10, "world_size": 4}, "set it to 12"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
    ],
)
def test_what_cannot_be_dealt_is_told(shards: TokenShards, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        WindowLoader(shards, **({"context": T, "batch_size": B} | settings))
