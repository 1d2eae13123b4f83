"""A language model of character n-grams, to tell ordinary text from garbled and foreign one by its perplexity.

Interpolated Kneser-Ney smoothing with three discounts (Chen and Goodman 1998, section 3): unlike stupid
backoff it gives probabilities that add up to 1, without which a perplexity would depend on how much was trained on.
Characters and not words: Chinese has no blanks, and no word is unknown. As in CCNet (Wenzek et al. 2019), a model is
trained on clean text of one language, and documents fall into three buckets by two percentiles of the perplexity.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fromzero.artifact import Artifact, build, open_artifact
from fromzero.corpus.document import HIGH_PERPLEXITY
from fromzero.corpus.examples import digest_examples, held_out, read_examples
from fromzero.errors import UserError
from fromzero.files import write_json

VERSION = 1
WEIGHTS, SETTINGS = "ngrams.safetensors", "ngrams.json"
MAX_ORDER = 16
_FACTOR = np.uint64(0xC2B2AE3D27D4EB4F)  # of windows, as in kernels.ngrams
_PRUNED = 3  # from this size on, n-grams that are seen once are left out: they are most of the table, and say least


@dataclasses.dataclass(frozen=True)
class NgramConfig:
    """How clean text becomes a language model."""

    texts: tuple[Path, ...]
    """Corpora, .jsonl files (`text`) or .txt files (a text a line) of clean text in one language."""
    output: Path
    """Folder for the model."""
    pool: tuple[Path, ...] = ()
    """Documents like those that will be filtered, from which the cutoffs are taken. Empty: held-out clean text."""
    cutoffs: tuple[float, float] = (0.3, 0.6)
    """Shares of the pool below the two cutoffs (CCNet: 0.3 and 0.6)."""
    order: int = 5
    """Longest n-gram, in characters."""
    characters: int = 10_000_000
    """Characters to read at the most, in the order of `texts`; training takes about 130 bytes of
    memory for each."""

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise UserError(f"order is {self.order}; it takes a whole number from 1 to {MAX_ORDER}")
        if not 0 <= self.cutoffs[0] <= self.cutoffs[1] <= 1:
            raise UserError(
                f"cutoffs is {list(self.cutoffs)}; it takes two shares between 0 and 1, the lower one first"
            )


class NgramModel:
    """A table: key of an n-gram -> its log probability; of a context -> the log of what it leaves to shorter ones."""

    def __init__(self, keys: NDArray[np.uint64], values: NDArray[np.float32], order: int, unseen: float) -> None:
        self.keys, self.values, self.order, self.unseen = keys, values, order, unseen
        self.cutoffs = (math.inf, math.inf)

    @staticmethod
    def load(path: Path) -> "NgramModel":
        """A finished model. Raises UserError when it is none, or damaged."""
        found = open_artifact(path, "ngrams")
        made, table = json.loads((found.path / SETTINGS).read_bytes()), load_file(found.path / WEIGHTS)
        keys, room = table["keys"], len(table["values"])
        if keys.shape != (room,) or room & (room - 1) or keys.all() or not 1 <= made["order"] <= MAX_ORDER:
            raise UserError(f"{path} is damaged: its table is none; train it again")
        model = NgramModel(keys, table["values"], made["order"], made["unseen"])
        model.cutoffs = tuple(made["cutoffs"])
        return model

    def perplexity(self, text: str) -> float:
        """exp of the mean negative log probability of a character; infinite for an empty text."""
        from fromzero.kernels.ngrams import log_probability

        windows = np.zeros((2, self.order + 1), np.uint64)
        total = log_probability(_symbols(text), self.order, self.keys, self.values, self.unseen, windows)
        return math.exp(-total / len(text)) if text else math.inf

    def judge(self, text: str) -> str | None:
        """HIGH_PERPLEXITY and the perplexity for the bucket 'high', None to keep."""
        found = self.perplexity(text)
        return f"{HIGH_PERPLEXITY}: above {self.cutoffs[1]:.4g}, found {found:.4g}" if found > self.cutoffs[1] else None


def train_ngrams(config: NgramConfig) -> Artifact:
    """Train on clean text; an 'ngrams' artifact, with the perplexity of held-out text in its summary."""
    inputs = {name: digest_examples(getattr(config, name)) for name in ("texts", "pool")}
    where = ("texts", "pool", "output")
    return build(config.output, "ngrams", config, inputs, lambda f: _make(f, config), version=VERSION, ignore=where)


def _make(folder: Path, config: NgramConfig) -> Mapping[str, Any]:
    read = functools.partial(read_examples, characters=config.characters, most=config.characters)
    texts = read(config.texts)
    test, train = ([text for text in texts if held_out(text, 0.05) is side] for side in (True, False))
    if not (test and train):
        raise UserError(f"{len(texts)} texts are too few; one in twenty is held out to measure: add some")
    model = estimate("\n".join(train)[: config.characters], config.order)
    perplexities = list(map(model.perplexity, test))
    pool = list(map(model.perplexity, read(config.pool))) if config.pool else perplexities
    low, high = map(float, np.quantile(pool, config.cutoffs))
    save_file({"keys": model.keys, "values": model.values}, folder / WEIGHTS)
    write_json(folder / SETTINGS, {"order": model.order, "unseen": model.unseen, "cutoffs": [low, high]})
    counted = {"texts": len(train), "pool": len(pool), "entries": int(np.count_nonzero(model.keys))}
    return {"perplexity": float(np.median(perplexities)), "low": low, "high": high} | counted


def estimate(text: str, order: int) -> NgramModel:
    """The model of a text. An n-gram of less than full size counts as often as different characters stand before it."""
    from fromzero.kernels.ngrams import enter

    symbols = _symbols("\n" * order + text)
    levels = _levels(symbols, order)
    unseen = -math.log(len(levels[-1][0]) + 1)  # one more for all characters that were never seen
    below = np.full(1, math.exp(unseen))
    keys, values = [], []
    for size, (windows, places, counts, shorter) in enumerate(reversed(levels), 1):
        contexts, context = np.unique(_windows(symbols, places, size - 1), return_inverse=True)
        seen = (counts - _discounts(counts)[np.minimum(counts, 3)]) / np.bincount(context, counts)[context]
        seen *= counts > (1 if size >= _PRUNED else 0)
        left = 1 - np.bincount(context, seen)
        below = seen + left[context] * below[shorter]
        keys += [_keys(windows[seen > 0], 2 * size), _keys(contexts[left < 1], 2 * size + 1)]
        values += [np.log(below[seen > 0]), np.log(left[left < 1])]
    entries = np.concatenate(keys)
    room = 1 << (3 * len(entries) // 2).bit_length()
    table, worth = np.zeros(room, np.uint64), np.zeros(room, np.float32)
    enter(table, worth, entries, np.concatenate(values).astype(np.float32))
    return NgramModel(table, worth, order, unseen)


def _levels(symbols: NDArray[np.uint64], order: int) -> list[tuple[NDArray[Any], ...]]:
    """From the longest n-grams to single characters: windows, places, counts, and their rows' places one level down."""
    places = np.arange(len(symbols) - order + 1)
    levels: list[tuple[NDArray[Any], ...]] = []
    links: list[NDArray[Any]] = []
    for size in range(order, 0, -1):
        found, first, link, counts = np.unique(_windows(symbols, places, size), True, True, True)
        links.append(link)
        levels.append((found, places[first], counts))
        places = places[first] + 1
    return [(*level, link) for level, link in zip(levels, [*links[1:], np.zeros(len(levels[-1][0]), int)], strict=True)]


def _discounts(counts: NDArray[Any]) -> NDArray[np.float64]:
    """What is taken from counts of 1, 2, and 3 or more, from how many there are of each."""
    one, two, three, four = (max(1, int(np.sum(counts == n))) for n in (1, 2, 3, 4))
    ratio = one / (one + 2 * two)
    found = np.array([0, 1 - 2 * ratio * two / one, 2 - 3 * ratio * three / two, 3 - 4 * ratio * four / three])
    return np.clip(found, [0, 0.1, 0.1, 0.1], [0, 0.9, 1.9, 2.9])


def _symbols(text: str) -> NDArray[np.uint64]:
    """A newline and the characters of a text, scrambled so that sums of them differ."""
    codes = np.frombuffer(("\n" + text).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    mixed = (codes + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ mixed >> np.uint64(32)


def _windows(symbols: NDArray[np.uint64], places: NDArray[Any], size: int) -> NDArray[np.uint64]:
    total = np.zeros(len(places), np.uint64)
    for offset in range(size):
        total = total * _FACTOR + symbols[places + offset]
    return total


def _keys(windows: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """`_key` of kernels.ngrams for arrays."""
    keys = (windows ^ np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    return keys ^ keys >> np.uint64(32) | np.uint64(1)
