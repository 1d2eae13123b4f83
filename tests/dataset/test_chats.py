"""Every conversation once an epoch with exactly its masked targets, the same for any number of processes."""

from typing import Any

import numpy as np
import pytest

from fromzero.artifact import Artifact
from fromzero.dataset import ConversationLoader, TokenShards
from fromzero.dataset.chats import NO_LOSS
from fromzero.errors import UserError

B = 8  # 45 conversations: 6 batches, the last with 5


@pytest.fixture(scope="module")
def shards(chats: Artifact) -> TokenShards:
    return TokenShards(chats.path)


def dealt(loader: ConversationLoader, batches: int) -> list[tuple[list[int], list[int]]]:
    """Rows of ids and targets without their padding; rows that are filled left out."""
    rows = []
    for _ in range(batches):
        ids, targets = loader.next_batch()
        assert ids.shape == targets.shape
        for x, y in zip(ids.tolist(), targets.tolist(), strict=True):
            length = max((i + 1 for i, target in enumerate(y) if target != NO_LOSS), default=0)
            if length:
                rows.append((x[: length + 1], y[:length]))
    return rows


def expected(shards: TokenShards) -> list[tuple[list[int], list[int]]]:
    rows = []
    for start, stop in zip(shards.boundaries, shards.boundaries[1:], strict=False):
        ids, mask = shards[int(start) : int(stop)].tolist(), shards.mask(int(start), int(stop)).tolist()
        targets = [token if marked else NO_LOSS for token, marked in zip(ids[1:], mask[1:], strict=True)]
        length = max(i + 1 for i, target in enumerate(targets) if target != NO_LOSS)
        rows.append((ids[: length + 1], targets[:length]))
    return rows


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_conversation_comes_once_with_its_targets(shards: TokenShards, world_size: int) -> None:
    loaders = [ConversationLoader(shards, 400, B, 1, rank, world_size) for rank in range(world_size)]
    for _ in range(3):
        rows = [row for loader in loaders for row in dealt(loader, loader.batches)]
        assert sorted(rows) == sorted(expected(shards))


def test_loss_carrying_targets_are_those_of_the_masks(shards: TokenShards, chats: Artifact) -> None:
    loader = ConversationLoader(shards, 400, B)
    counted = sum(int((loader.next_batch()[1] != NO_LOSS).sum()) for _ in range(loader.batches))
    assert counted == chats.summary["train"]["loss_tokens"] == int(shards.mask(0, len(shards)).sum())


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_batches_are_the_same_for_any_number_of_processes(shards: TokenShards, world_size: int) -> None:
    alone = ConversationLoader(shards, 400, B, seed=2)
    together = [ConversationLoader(shards, 400, B, 2, rank, world_size) for rank in range(world_size)]
    for _ in range(9):
        ids, targets = alone.next_batch()
        for rank, loader in enumerate(together):
            x, y = loader.next_batch()
            assert x.equal(ids[rank::world_size])
            assert y.equal(targets[rank::world_size])
    assert all(loader.state_dict() == alone.state_dict() for loader in together)


def test_similar_lengths_share_a_batch(shards: TokenShards) -> None:
    """Padding is less than half of what batches in random order would have."""
    loader = ConversationLoader(shards, 400, B)
    used = padded = 0
    for _ in range(loader.batches - 1):
        ids, _ = loader.next_batch()
        used += ids.numel()
    lengths = np.random.default_rng(0).permutation(np.diff(shards.boundaries) - 1)
    batches = [lengths[i : i + B] for i in range(0, len(lengths), B)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    assert used - lengths.sum() < (padded - lengths.sum()) / 2


def test_epochs_and_seeds_have_orders_of_their_own(shards: TokenShards) -> None:
    loader = ConversationLoader(shards, 400, B)
    first, second = dealt(loader, loader.batches), dealt(loader, loader.batches)
    assert first != second
    assert dealt(ConversationLoader(shards, 400, B, seed=1), loader.batches) != first


@pytest.mark.parametrize("before", [0, 2, 6, 8])
def test_restoring_goes_on_exactly(shards: TokenShards, before: int) -> None:
    one = ConversationLoader(shards, 400, B, seed=9)
    dealt(one, before)
    state = one.state_dict()
    rest = dealt(one, 10)
    other = ConversationLoader(shards, 400, B, seed=9)
    other.load_state_dict(state)
    assert dealt(other, 10) == rest
    assert other.state_dict() == one.state_dict()


def test_states_of_something_else_are_refused(shards: TokenShards, chats: Artifact) -> None:
    state = ConversationLoader(shards, 400, B).state_dict()
    with pytest.raises(UserError, match="for batch_size 8, here it is 4"):
        ConversationLoader(shards, 400, 4).load_state_dict(state)
    with pytest.raises(UserError, match="fingerprint"):
        ConversationLoader(TokenShards(chats.path, "validation"), 400, B).load_state_dict(state)


def test_a_set_smaller_than_a_batch_is_filled_up(chats: Artifact) -> None:
    loader = ConversationLoader(TokenShards(chats.path, "validation"), 400, B)
    ids, targets = loader.next_batch()
    assert ids.shape[0] == B
    assert ((targets != NO_LOSS).sum(1) > 0).sum() == 1
    assert loader.epoch == 1


@pytest.mark.parametrize(
    ("settings", "message"), [({"context": 20}, "context is 20"), ({"batch_size": 3, "world_size": 2}, "set it to 4")]
)
def test_what_cannot_be_dealt_is_told(shards: TokenShards, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ConversationLoader(shards, **({"context": 400, "batch_size": B} | settings))


def test_tokens_without_mask_are_refused(packed: Artifact) -> None:
    with pytest.raises(UserError, match="no loss mask"):
        ConversationLoader(TokenShards(packed.path), 400, B)
