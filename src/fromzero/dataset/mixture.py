"""What pretraining reads: a folder of tokens, or a mixture of several, dealt as its plan says.

A phase of a mixture is cut into blocks. A block has its part of each source, to within a window, in a random order, so
the shares hold at any point of training. Which window of which source stands at a place follows from the place alone,
so a loader can start anywhere, on any rank, at once.
"""

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fromzero.artifact import open_artifact
from fromzero.dataset.bestfit import BestFitLoader
from fromzero.dataset.mixing import PLAN
from fromzero.dataset.permutation import Permutation
from fromzero.dataset.shards import JoinedShards, TokenShards
from fromzero.dataset.windows import WindowLoader
from fromzero.errors import UserError
from fromzero.files import digest_of

BLOCK = 1024  # windows, about


@dataclass(frozen=True)
class TrainingData:
    """What pretraining reads."""

    path: Path
    """Folder with its tokenizer."""
    digest: str
    """SHA-256 of what is read and how, wherever it is."""
    held_out: TokenShards
    """The held-out split; that of a mixture is those of its sources one after another."""
    loader: Callable[..., Any]
    """(context, batch_size, seed, rank, world_size) -> loader; without the last two, for one process."""
    windows: int | None = None
    """How many are dealt; None is without end."""
    sources: Mapping[str, TokenShards] = field(default_factory=dict)
    """Of a mixture: the held-out split of each source."""


def open_data(path: Path, packing: Literal["concatenate", "best_fit"] = "concatenate") -> TrainingData:
    """Open a 'tokens' or 'mixture' artifact. Raises UserError when it, or a source of it, is not what it was."""
    found = open_artifact(path)
    here = found.path
    if found.kind == "tokens":
        loader = functools.partial(BestFitLoader if packing == "best_fit" else WindowLoader, TokenShards(here))
        return TrainingData(here, found.digest, TokenShards(here, "validation"), loader)
    if found.kind != "mixture":
        raise UserError(f"{path} is a {found.kind}; name tokens, made by fromzero pack, or a mixture, by fromzero mix")
    if packing == "best_fit":
        raise UserError(f"{path} is a mixture, which is planned in windows; train it with train.packing concatenate")
    context, entries, phases = _read_plan(here / PLAN)
    sources = [_open_source(path, name, *entry) for name, entry in entries.items()]
    digest = digest_of(context, [digest for _, digest in entries.values()], phases)
    parts = [TokenShards(shards.folder, "validation") for shards in sources]
    deal = functools.partial(MixtureLoader, JoinedShards(sources, here, digest), phases, context)
    held_out = JoinedShards(parts, here, digest)
    return TrainingData(here, digest, held_out, deal, sum(map(sum, phases)), dict(zip(entries, parts, strict=True)))


def _read_plan(file: Path) -> tuple[int, dict[str, tuple[str, str]], list[list[int]]]:
    """The context, path and digest of each source, and for each phase the windows of each."""
    try:
        plan = json.loads(file.read_bytes())
        entries = {name: (entry["tokens"], entry["digest"]) for name, entry in sorted(plan["sources"].items())}
        phases = [[int(phase.get(name, 0)) for name in entries] for phase in plan["phases"]]
        assert all(sum(phase) > 0 and min(phase) >= 0 for phase in phases), "windows below 0"
        return int(plan["context"]), entries, phases
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(f"{file} can't be read ({error!r}); run fromzero mix again") from error


def _open_source(mixture: Path, name: str, tokens: str, digest: str) -> TokenShards:
    advice = f"{mixture} draws {name} from it: put back what was there, or run fromzero mix again"
    try:
        found = open_artifact(Path(tokens), "tokens")
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    if found.digest != digest:
        raise UserError(f"{tokens} was changed; {advice}")
    return TokenShards(found.path)


class MixtureLoader(WindowLoader):
    """Deals the windows of a mixture, phase after phase, until its plan ends.

    Each source is dealt as if alone: each window once an epoch, in an order of its own for each epoch, and a phase goes
    on where the one before it left off. phases: windows of each source; planned: the context that they are counted in.
    Raises UserError for another context, and beyond the end.
    """

    def __init__(
        self, whole: JoinedShards, phases: Sequence[Sequence[int]], planned: int, context: int, *others: int
    ) -> None:
        if context != planned:
            raise UserError(f"{whole.folder} has windows of {planned} tokens, not of {context}; mix for this context")
        super().__init__(whole, context, *others)
        self.sources = [WindowLoader(shards, context, 1, self.seed) for shards in whole.parts]
        self.offsets = [0, *itertools.accumulate(map(len, whole.parts))]
        self.orders = [Interleaving(counts, self.seed, i) for i, counts in enumerate(phases)]
        self.starts = [0, *itertools.accumulate(map(sum, phases))]
        self.before = np.cumsum([[0] * len(self.sources), *phases], 0)

    def find(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the windows at some places of the mixture begin in all sources one after another."""
        sources, indices = np.array([self.locate(place) for place in places.tolist()], np.int64).T
        starts = np.empty_like(places)
        for source in np.unique(sources):
            own = sources == source
            starts[own] = self.sources[source].find(indices[own]) + self.offsets[source]
        return starts

    def locate(self, place: int) -> tuple[int, int]:
        """The source of a window of the mixture, and its place in the endless stream of that source."""
        if place >= self.starts[-1]:
            raise UserError(
                f"{self.shards.folder} ends after {self.starts[-1]:,} windows; mix more tokens, or train less"
            )
        phase = int(np.searchsorted(self.starts, place, "right")) - 1
        source, index = self.orders[phase].locate(place - self.starts[phase])
        return source, index + int(self.before[phase, source])


class Interleaving:
    """The order in which a phase deals its sources, drawn by a key. counts: windows of each."""

    def __init__(self, counts: Sequence[int], *key: int) -> None:
        self.counts, self.key = counts, key
        self.blocks = -(-sum(counts) // BLOCK)
        self._drawn = functools.lru_cache(2)(self._draw)

    def locate(self, place: int) -> tuple[int, int]:
        """The source at a place, and how many windows of it come before."""
        block = place * self.blocks // sum(self.counts)
        while sum(self._before(block + 1)) <= place:  # parts of windows are rounded down
            block += 1
        sources, indices = self._drawn(block)
        row = place - sum(self._before(block))
        return int(sources[row]), int(indices[row])

    def _before(self, block: int) -> list[int]:
        """Windows of each source in the blocks before one."""
        return [count * block // self.blocks for count in self.counts]

    def _draw(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sources of a block in their order, and which window of its source each is."""
        before, after = self._before(block), self._before(block + 1)
        sources = np.repeat(np.arange(len(before)), np.subtract(after, before))
        sources = sources[Permutation(len(sources), *self.key, block)(np.arange(len(sources)))]
        indices = np.empty_like(sources)
        for source, first in enumerate(before):
            indices[sources == source] = np.arange(first, after[source])
        return sources, indices
