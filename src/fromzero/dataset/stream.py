"""Batches straight from a corpus: documents are encoded while the model trains, and nothing is packed before.

Documents are read in the order of the corpus, some thousand at a time. Within such a block their order is drawn by the
seed, and so is that of the windows which their ids are cut into; what does not fill a window goes over to the next
block, and from the last into the next epoch. So every id is in exactly one window an epoch (as its first T ids).

Each process reads and encodes the whole stream and takes its rows of it: that is what makes the rows the same for any
number of processes. With many of them on one machine, `fromzero pack` costs less.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fromzero.artifact import here, open_artifact
from fromzero.corpus import Document, read_corpus
from fromzero.dataset.mixture import TrainingData
from fromzero.dataset.position import check_share, check_state
from fromzero.dataset.prefetch import Ahead
from fromzero.dataset.recovery import bytes_to_spell
from fromzero.dataset.shards import ShardsInMemory, TokenShards
from fromzero.dataset.writing import load_for_packing, tokenizer_digest
from fromzero.errors import UserError
from fromzero.files import digest_of
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.text import batches

if TYPE_CHECKING:
    import torch

BLOCK_CHARACTERS = 1 << 23
"""Of the documents that are shuffled with each other."""
HELD_OUT_CHARACTERS = 1 << 24
"""Most of the held-out split that is encoded; it stays in memory."""


@dataclass(frozen=True)
class Block:
    """Windows of some documents that follow each other in the corpus, and where they are."""

    epoch: int
    first: int
    """Number of its first document."""
    before: dict[str, list[Any]]
    """What came over from the block before: ids, and [place, id in the corpus] of each document that begins there."""
    ids: NDArray[np.int64]
    names: list[list[Any]]
    """[place, id in the corpus] of each document in ids."""
    windows: NDArray[np.int64]
    """Their numbers, in the order in which they are dealt."""

    @functools.cached_property
    def places(self) -> NDArray[np.int64]:
        """Where in ids each document of names begins."""
        return np.array([place for place, _ in self.names], np.int64)

    def over(self, context: int) -> dict[str, list[Any]]:
        """What goes over to the next block."""
        rest = len(self.windows) * context
        begun = max(0, sum(place <= rest for place, _ in self.names) - 1)
        names = [[max(0, place - rest), name] for place, name in self.names[begun:]]
        return {"ids": self.ids[rest:].tolist(), "names": names}


class StreamLoader:
    """Deals windows of `context` ids and, as targets, the same one id further on; see WindowLoader for the rest."""

    def __init__(
        self,
        corpus: Path,
        tokenizer: Tokenizer,
        fingerprint: str,
        context: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """fingerprint: of corpus and tokenizer."""
        check_share(batch_size, context, rank, world_size)
        self.corpus, self.tokenizer, self.fingerprint = corpus, tokenizer, fingerprint
        self.context, self.batch_size, self.seed = context, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.position = 0
        """Windows dealt so far, over all processes."""
        self.dealt: Any = []
        """The documents of each row of this process's last batch."""
        self._block = Block(0, 0, {"ids": [], "names": []}, np.zeros(0, np.int64), [], np.zeros(0, np.int64))
        self._row = 0
        self._blocks: Ahead[Block] | None = None

    def next_batch(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """This process's rows of the next batch: ids and targets, (batch_size / world_size, context) int64 each."""
        import torch

        rows = [self._next_row() for _ in range(self.batch_size)][self.rank :: self.world_size]
        self.dealt = [names for _, names in rows]
        self.position += self.batch_size
        ids = torch.from_numpy(np.stack([ids for ids, _ in rows]))
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def documents(self, dealt: Any = None) -> list[list[str]]:
        """The documents of each row of this process's last batch, or of one that had this in `dealt`."""
        return self.dealt if dealt is None else dealt

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as JSON can hold it. It does not depend on batch_size or the number of processes."""
        block = self._block
        place = {"position": self.position, "epoch": block.epoch, "document": block.first, "row": self._row}
        own = {"seed": self.seed, "context": self.context, "fingerprint": self.fingerprint}
        return place | own | {"before": block.before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state. Raises UserError when it is for other tokens, another context or another seed."""
        names = {"fingerprint": "documents and a tokenizer with the fingerprint", "context": "context", "seed": "seed"}
        check_state(self.state_dict(), state, names)
        self.close()
        self._blocks = Ahead(self._read(int(state["epoch"]), int(state["document"]), state["before"]), 1)
        self._block = self._blocks.next()
        self.position, self._row = int(state["position"]), int(state["row"])

    def close(self) -> None:
        """End the thread that reads."""
        if self._blocks is not None:
            self._blocks.close()
            self._blocks = None

    def _next_row(self) -> tuple[NDArray[np.int64], list[str]]:
        """The next window and its documents."""
        self._blocks = self._blocks or Ahead(self._read(0, 0, self._block.before), 1)
        while self._row == len(self._block.windows):
            self._block, self._row = self._blocks.next(), 0
        block, start = self._block, int(self._block.windows[self._row]) * self.context
        self._row += 1
        first, last = np.searchsorted(block.places, [start, start + self.context - 1], "right")
        names = [name for _, name in block.names[max(0, int(first) - 1) : int(last)]]
        return block.ids[start : start + self.context + 1], names

    def _read(self, epoch: int, first: int, before: dict[str, list[Any]]) -> Iterator[Block]:
        """The blocks from a document of an epoch on, without end."""
        while True:
            documents = read_corpus(self.corpus, "train", first)
            for group in batches(documents, BLOCK_CHARACTERS, lambda document: len(document.text)):
                block = self._encode(epoch, first, before, group)
                yield block
                before, first = block.over(self.context), first + len(group)
            if not first:
                raise UserError(f"{self.corpus} has no train documents; add some and build it again")
            if epoch == block.first == 0 and len(block.ids) <= self.batch_size * self.context:
                raise UserError(
                    f"{self.corpus} has {len(block.ids)} train tokens, but a batch of {self.batch_size} windows of "
                    f"{self.context} needs {self.batch_size * self.context + 1}; lower batch_size or context"
                )
            epoch, first = epoch + 1, 0

    def _encode(self, epoch: int, first: int, before: dict[str, list[Any]], group: list[Document]) -> Block:
        random = np.random.default_rng([self.seed, epoch, first])
        group = [group[at] for at in random.permutation(len(group)).tolist()]
        begin = [self.tokenizer.end_of_text]
        pieces = [np.append(begin, ids) for ids in self.tokenizer.encode_arrays([d.text for d in group])]
        ids = np.concatenate([np.array(before["ids"], np.int64), *pieces])
        places = itertools.accumulate(map(len, pieces), initial=len(before["ids"]))
        names = before["names"] + [[place, document.id] for place, document in zip(places, group, strict=False)]
        windows = random.permutation((len(ids) - 1) // self.context)
        return Block(epoch, first, before, ids, names, windows)


def open_stream(corpus_path: Path, tokenizer_path: Path) -> TrainingData:
    """A corpus and a tokenizer as what pretraining reads. Raises UserError when either can't be read."""
    corpus, source = open_artifact(corpus_path, "corpus"), here(tokenizer_path)
    tokenizer = load_for_packing(source)
    digest = digest_of(corpus.digest, tokenizer_digest(source))

    def loader(*shape: int) -> StreamLoader:
        return StreamLoader(corpus.path, tokenizer, digest, *shape)

    return TrainingData(source, digest, _held_out(corpus.path, tokenizer), loader)


def _held_out(corpus: Path, tokenizer: Tokenizer) -> TokenShards:
    """The beginning of the held-out split, as `pack` would write it."""
    texts = (document.text for document in read_corpus(corpus, "validation"))
    group = next(batches(texts, HELD_OUT_CHARACTERS), [])
    encoded = tokenizer.encode_arrays(group)
    lossless = all(bytes_to_spell(tokenizer, ids.tolist(), text) == 0 for ids, text in zip(encoded, group, strict=True))
    documents = [np.append([tokenizer.end_of_text], ids) for ids in encoded]
    return ShardsInMemory(corpus, "validation", documents, tokenizer.vocab_size, tokenizer.end_of_text, lossless)
