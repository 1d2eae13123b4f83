"""What all loaders of pretraining promise: each token once an epoch, whoever takes how many rows of it, and when."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fromzero.artifact import Artifact
from fromzero.config import from_mapping
from fromzero.dataset import TokenShards, bestfit, stream
from fromzero.dataset.mixing import MixConfig, mix
from fromzero.dataset.mixture import open_data
from fromzero.dataset.prefetch import Prefetch
from fromzero.dataset.stream import open_stream
from fromzero.errors import UserError

T, LEAST = 12, 12
KINDS = ("windows", "best_fit", "mixture", "stream")
Make = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Pools and blocks so small that a corpus of forty documents has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bestfit, "POOL", 8)
        patch.setattr(stream, "BLOCK_CHARACTERS", 200)
        yield


@pytest.fixture(scope="module")
def makes(
    packed: Artifact, corpus: Artifact, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Make]:
    """How to make a loader of each kind: (context, batch_size, seed, rank, world_size)."""
    output = tmp_path_factory.mktemp("made") / "mixture"
    sources = {name: {"tokens": str(packed.path)} for name in ("a", "b")}
    phases = [{"tokens": 30 * T, "sources": {"a": 2, "b": 1}}, {"tokens": 40 * T, "sources": {"b": 1}}]
    values = {"sources": sources, "output": str(output), "context": T, "phases": phases}
    mix(from_mapping(MixConfig, values, "mix"))
    return {
        "windows": open_data(packed.path).loader,
        "best_fit": open_data(packed.path, "best_fit").loader,
        "mixture": open_data(output).loader,
        "stream": open_stream(corpus.path, tokenizer_folder).loader,
    }


def rows(loader: Any, count: int) -> list[Any]:
    dealt = []
    for _ in range(count):
        ids, targets = loader.next_batch()
        dealt += list(zip(ids.tolist(), targets.tolist(), loader.documents(), strict=True))
    return dealt


@settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    phases=st.lists(st.tuples(st.sampled_from([1, 2, 3, 4]), st.sampled_from([12, 24]), st.integers(0, 5)), max_size=4),
    ahead=st.booleans(),
)
@pytest.mark.parametrize("kind", KINDS)
def test_any_batches_and_processes_deal_the_same_rows(
    makes: dict[str, Make], kind: str, phases: list[tuple[int, int, int]], ahead: bool
) -> None:
    state, dealt, count = None, list[Any](), 0
    for world_size, batch_size, batches in phases:
        count = min(count + batch_size * batches, 60 if kind == "mixture" else 200)
        batches = (count - len(dealt)) // batch_size
        states = []
        parts = []
        for rank in range(world_size):
            loader = makes[kind](T, batch_size, 3, rank, world_size)
            with Prefetch(loader, 2 if ahead else 0) as taken:
                if state is not None:
                    taken.load_state_dict(state)
                parts.append(rows(taken, batches))
                states.append(taken.state_dict())
        assert all(other == states[0] for other in states)
        state = states[0]
        share = batch_size // world_size
        dealt += [parts[r % world_size][b * share + r // world_size] for b in range(batches) for r in range(batch_size)]
        count = len(dealt)
    alone = makes[kind](T, LEAST, 3)
    assert rows(alone, -(-count // LEAST))[:count] == dealt
    alone.close()


@pytest.mark.parametrize("kind", ["windows", "best_fit"])
def test_every_token_is_an_input_once_an_epoch_and_what_follows_it_its_target(
    makes: dict[str, Make], packed: Artifact, kind: str
) -> None:
    shards = TokenShards(packed.path)
    whole = [*shards[:].tolist(), shards.end_of_text]
    if kind == "windows":  # no window is made of the few ids behind the last whole one
        whole = whole[: (len(shards) - 1) // T * T + 1]
    loader = makes[kind](T, 1, 5)
    for epoch in range(2):
        pairs: Counter[Any] = Counter()
        while loader.epoch == epoch:
            ids, targets = (tensor[0] for tensor in loader.next_batch())
            pairs.update(zip(ids[targets != -100].tolist(), targets[targets != -100].tolist(), strict=True))
        assert pairs == Counter(itertools.pairwise(whole))


def test_every_document_of_a_stream_comes_once_an_epoch(makes: dict[str, Make], packed: Artifact) -> None:
    shards = TokenShards(packed.path)
    starts = shards.boundaries.tolist()
    wanted = sorted(shards[a:b].tolist() for a, b in itertools.pairwise(starts))
    loader = makes["stream"](T, 1, 5)
    joined, blocks = list[int](), set()
    while loader.state_dict()["epoch"] < 3:
        ids = loader.next_batch()[0][0].tolist()
        block, row = loader._block, loader._row - 1
        if (block.epoch, block.first) not in blocks:
            blocks.add((block.epoch, block.first))
            joined += block.ids[: len(block.windows) * T].tolist()
        assert sorted(block.windows.tolist()) == list(range(len(block.windows)))
        at = int(block.windows[row]) * T
        assert ids == block.ids[at : at + T].tolist()
    loader.close()
    ends = [at for at, i in enumerate(joined) if i == shards.end_of_text] + [len(joined)]
    documents = [joined[a:b] for a, b in itertools.pairwise(ends)]
    assert [sorted(documents[e * 40 : e * 40 + 40]) for e in range(3)] == [wanted] * 3
    assert documents[:40] != documents[40:80]
    assert len({b for e, b in blocks if e == 0}) > 3


def test_rows_of_best_fit_are_whole_documents_where_they_fit(makes: dict[str, Make], packed: Artifact) -> None:
    shards = TokenShards(packed.path)
    bounds = shards.boundaries.tolist()
    context = 40
    loader = makes["best_fit"](context, 4, 1)
    padding = 0
    while loader.epoch < 1:
        ids, targets = loader.next_batch()
        for row, pieces in enumerate(loader.dealt):
            used = sum(stop - start for start, stop in pieces)
            padding += context - used
            assert used <= context
            assert (targets[row, :used] != -100).all()
            assert (targets[row, used:] == -100).all()
            assert (ids[row, used:] == shards.end_of_text).all()
            for start, stop in pieces:
                begin = max(b for b in bounds if b <= start)
                end = min(b for b in bounds if b >= stop)
                if end - begin <= context:
                    assert (start, stop) == (begin, end)
                else:
                    assert (start - begin) % context == 0
    assert padding / (loader.position * context) < 0.25


@pytest.mark.parametrize(
    ("lengths", "wanted"), [([6, 5, 4, 3, 2], 2), ([10], 1), ([7, 6, 3, 3, 1], 2), ([4] * 5, 3), ([], 0)]
)
def test_best_fit_fills_rows(lengths: list[int], wanted: int) -> None:
    rows = bestfit.best_fit([(100 * i, 100 * i + n) for i, n in enumerate(lengths)], 10)
    assert len(rows) == wanted
    assert sorted(stop - start for row in rows for start, stop in row) == sorted(lengths)
    assert all(sum(stop - start for start, stop in row) <= 10 for row in rows)


def test_loaders_say_which_documents_a_row_is_of(
    makes: dict[str, Make], packed: Artifact, tokenizer_folder: Path, tmp_path: Path
) -> None:
    shards = TokenShards(packed.path)
    texts = {f"train{i}": shards[int(a) : int(b)].tolist() for i, (a, b) in enumerate(
        zip(shards.boundaries[:-1], shards.boundaries[1:], strict=True)
    )}  # fmt: skip
    for kind in KINDS:
        loader = makes[kind](T, 12, 2, 1, 3)
        for ids, targets, names in rows(loader, 2):
            if kind == "best_fit":
                ids = [i for i, t in zip(ids, targets, strict=True) if t != -100]
            joined = [i for name in names for i in texts[name]]
            if kind in ("windows", "mixture", "stream"):
                assert any(joined[at : at + len(ids)] == ids for at in range(len(joined)))
            else:
                assert not Counter(ids) - Counter(joined)
        loader.close()
    (packed.path / "train-ids.txt").rename(tmp_path / "away")
    loader = makes["windows"](T, 12)
    loader.next_batch()
    assert loader.documents()[0][0].startswith("number ")
    (tmp_path / "away").rename(packed.path / "train-ids.txt")


def test_prefetch_gives_the_same_batches_and_the_state_of_those_given(makes: dict[str, Make]) -> None:
    alone = makes["windows"](T, LEAST, 1)
    with Prefetch(makes["windows"](T, LEAST, 1), 3) as ahead:
        for _ in range(5):
            assert ahead.state_dict() == alone.state_dict()
            for mine, yours in zip(ahead.next_batch(), alone.next_batch(), strict=True):
                assert torch.equal(mine, yours)
            assert ahead.documents() == alone.documents()


def test_prefetch_passes_errors_on_in_their_place_and_ends(makes: dict[str, Make]) -> None:
    loader = makes["mixture"](T, 35, 0)  # 70 windows
    with Prefetch(loader, 4) as ahead:
        for _ in range(2):
            ahead.next_batch()
        with pytest.raises(UserError, match="ends after 70 windows"):
            ahead.next_batch()


def test_what_cannot_be_dealt_is_told(
    makes: dict[str, Make], corpus: Artifact, tokenizer_folder: Path, packed: Artifact
) -> None:
    for kind in ("windows", "best_fit"):
        with pytest.raises(UserError, match="lower batch_size or context, or add documents"):
            makes[kind](T, 10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK_CHARACTERS", 1 << 23)
        loader = makes["stream"](T, 10_000)
        with pytest.raises(UserError, match=r"has \d+ train tokens, but a batch of 10000 windows of 12 needs 120001"):
            loader.next_batch()
        loader.close()
    loader = makes["stream"](T, LEAST)
    with pytest.raises(UserError, match="for seed 0, here it is 1"):
        makes["stream"](T, LEAST, 1).load_state_dict(loader.state_dict())
    shards = TokenShards(packed.path)
    shards.vocab_size = 100
    with pytest.raises(UserError, match="a vocabulary of 100; it is damaged"):
        shards[:]


def test_the_held_out_split_of_a_stream_is_that_of_packed_tokens(
    corpus: Artifact, tokenizer_folder: Path, packed: Artifact
) -> None:
    held_out, wanted = open_stream(corpus.path, tokenizer_folder).held_out, TokenShards(packed.path, "validation")
    assert held_out[:].tolist() == wanted[:].tolist()
    assert held_out.boundaries.tolist() == wanted.boundaries.tolist()
    assert (held_out.lossless, held_out.documents) == (wanted.lossless, wanted.documents)
