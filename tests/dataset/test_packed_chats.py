"""Rows of several conversations: each once an epoch, with the loss that it has alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fromzero.artifact import Artifact
from fromzero.dataset import ConversationLoader, TokenShards
from fromzero.dataset.chats import NO_LOSS
from fromzero.dataset.conversations import ConversationsConfig, pack_conversations
from fromzero.dataset.packed_chats import PackedConversationLoader
from fromzero.dataset.pairs import pad
from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.tokenizer import load_tokenizer
from fromzero.training.objective import next_token_loss

T, B = 400, 4
Piece = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def shards(chats: Artifact) -> TokenShards:
    return TokenShards(chats.path)


def alone(shards: TokenShards) -> list[Piece]:
    """Ids and targets of each conversation."""
    found = []
    for start, stop in zip(shards.boundaries[:-1].tolist(), shards.boundaries[1:].tolist(), strict=True):
        ids, mask = shards[start:stop].astype(np.int64), shards.mask(start, stop)
        found.append((ids[:-1].tolist(), np.where(mask[1:], ids[1:], NO_LOSS).tolist()))
    return found


def pieces(batch: dict[str, torch.Tensor]) -> list[Piece]:
    """The same of a batch, by its document numbers, padding left out."""
    found = []
    for ids, targets, documents, positions in zip(*(tensor.tolist() for tensor in batch.values()), strict=True):
        for number in range(1, max(documents) + 1):
            places = [i for i, document in enumerate(documents) if document == number]
            assert [positions[i] for i in places] == list(range(len(places)))
            if any(targets[i] != NO_LOSS for i in places):
                found.append(([ids[i] for i in places], [targets[i] for i in places]))
    return found


def test_each_conversation_once_an_epoch(shards: TokenShards) -> None:
    loader = PackedConversationLoader(shards, T, 1, seed=3)
    for epoch in range(2):
        dealt: list[Piece] = []
        while loader.epoch == epoch:
            dealt += pieces(loader.next_batch())
        assert sorted(dealt) == sorted(alone(shards))


def test_rows_are_the_same_for_any_number_of_processes_and_go_on_exactly(shards: TokenShards) -> None:
    whole = PackedConversationLoader(shards, T, B, 2)
    ranks = [PackedConversationLoader(shards, T, B, 2, rank, 2) for rank in range(2)]
    for _ in range(9):
        state, batch = whole.state_dict(), whole.next_batch()
        for rank, loader in enumerate(ranks):
            for name, tensor in loader.next_batch().items():
                assert tensor.equal(batch[name][rank::2])
        other = PackedConversationLoader(shards, T, B, 2)
        other.load_state_dict(state)
        assert all(tensor.equal(batch[name]) for name, tensor in other.next_batch().items())
        assert other.state_dict() == whole.state_dict() == ranks[0].state_dict()


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_the_loss_of_packed_rows_is_that_of_single_ones(shards: TokenShards, positions: str) -> None:
    config = ModelConfig(layers=2, width=32, heads=4, kv_heads=2, context=T, positions=positions)  # type: ignore[arg-type]
    model = Transformer(config.with_vocab(shards.vocab_size), seed=1)
    loader = PackedConversationLoader(shards, T, 1)
    packed = 0.0
    while loader.epoch == 0:
        packed += float(next_token_loss(model, **loader.next_batch()).detach())
    singles = [next_token_loss(model, torch.tensor([ids]), torch.tensor([targets])) for ids, targets in alone(shards)]
    assert packed == pytest.approx(float(sum(singles).detach()), rel=1e-5)  # type: ignore[union-attr]
    padded = ConversationLoader(shards, T, 8)
    batches = [padded.next_batch() for _ in range(padded.batches)]
    assert packed == pytest.approx(sum(float(next_token_loss(model, *batch).detach()) for batch in batches), rel=1e-5)


def test_the_side_of_padding_changes_nothing(shards: TokenShards) -> None:
    model = Transformer(ModelConfig(layers=2, width=32, heads=4, context=T).with_vocab(shards.vocab_size), seed=1)
    sums = []
    for side in ("left", "right"):
        ids_BT, keep_BT = pad([np.array(ids) for ids, _ in alone(shards)], 0, side)  # type: ignore[arg-type]
        targets_BT, _ = pad([np.array(targets) for _, targets in alone(shards)], NO_LOSS, side)  # type: ignore[arg-type]
        batch = {"ids_BT": ids_BT, "targets_BT": targets_BT, "keep_BT": keep_BT}
        sums.append(float(next_token_loss(model, **{k: torch.from_numpy(v) for k, v in batch.items()}).detach()))
        assert (targets_BT != NO_LOSS).sum() == shards.mask(0, len(shards)).sum()
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


@pytest.mark.parametrize(("side", "learned"), [("right", ["word", "x", "y"]), ("left", ["y", "z", "END"])])
def test_tokens_that_carry_loss_after_cutting(
    tokenizer_folder: Path, tmp_path: Path, side: Any, learned: list[str]
) -> None:
    """By hand: 1 + 7 + 1 + 1 and 1 + 10 tokens before the answer; then word, x, y, z and its end; then a line end."""
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"prompt": "ab", "completion": "wordxyz"}))
    context = {"right": 21 + 3, "left": 5}[side]  # of the five last ones, the first, x, is nobody's target
    config = ConversationsConfig(file, tokenizer_folder, tmp_path / "t", context, side, validation_share=0)
    shards, tokenizer = TokenShards(pack_conversations(config).path), load_tokenizer(tokenizer_folder)
    for loader in (ConversationLoader(shards, T, 1), PackedConversationLoader(shards, T, 1)):
        batch = loader.next_batch()
        targets = (batch["targets_BT"] if isinstance(batch, dict) else batch[1])[0]
        said = [tokenizer.decode([i]) for i in targets[targets != NO_LOSS].tolist()]
        assert said == [{"END": "<|im_end|>"}.get(word, word) for word in learned]


def test_few_conversations_are_enough(chats: Artifact) -> None:
    loader = PackedConversationLoader(TokenShards(chats.path, "validation"), T, B)
    assert len(pieces(loader.next_batch())) == B
    assert loader.epoch == B


def test_what_cannot_be_dealt_is_told(shards: TokenShards, packed: Artifact) -> None:
    with pytest.raises(UserError, match="no loss mask"):
        PackedConversationLoader(TokenShards(packed.path), T, B)
    with pytest.raises(UserError, match="context is 20"):
        PackedConversationLoader(shards, 20, B)
