"""From logits to one id.

The settings apply in this order: bias of ids, penalties, what a constraint or a minimal length forbids, temperature,
top-k, top-p, min-p, typical, draw (from temperature on as in transformers). Each filter is a pure function from logits
(N,) to the places that it keeps, so that the next one sees fewer. All of it is NumPy, whose sorts of a row are quick.
V ids of the vocabulary, N that are left.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fromzero.errors import UserError

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
Logits = Tensor | Floats
Filters = tuple[tuple[Callable[[Floats, Any], Places], float, float], ...]


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen."""

    temperature: float = 0.8
    """Divides the logits; 0 always takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 0.95
    """Keep the fewest most likely tokens that hold this much probability; 1 keeps all."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one's probability; 0 drops none."""
    typical_p: float = 1.0
    """Keep the tokens whose surprise is closest to what is expected, up to this much probability (Meister 2022); 1:
    all."""
    repetition_penalty: float = 1.0
    """Above 1, tokens seen before become less likely (Keskar 2019); 1 changes nothing."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that the answer has; below 0 they become likelier."""
    frequency_penalty: float = 0.0
    """The same for each time that the answer has them."""
    logit_bias: dict[int, float] = field(default_factory=dict)
    """Added to the logits of these ids, from -100 (never, in effect) to 100 (always)."""
    max_tokens: int = 256
    """Longest answer, tokens."""
    min_tokens: int = 0
    """Shortest answer: before it, no id and no text ends it."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the answer, beside the special tokens of the tokenizer; they are not part of it."""
    ignore_end: bool = False
    """Whether special tokens do not end it: it goes on to max_tokens, or to a stop text or id."""
    n: int = 1
    """Answers to one prompt."""
    logprobs: int | None = None
    """Give the log-probability of each token, and of so many likeliest ones; null: none."""
    seed: int | None = None
    """Seed of the draw; null draws differently each time."""

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self.temperature == 0 or 1e-3 <= self.temperature < 1e3, "0, or from 0.001 to 1000"),
            "seed": (self.seed is None or 0 <= self.seed < 2**63, "at least 0 and below 2^63, or null"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "typical_p": (0 < self.typical_p <= 1, "above 0 and at most 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "from 0.01 to 100"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "from -2 to 2"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "from -2 to 2"),
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "min_tokens": (0 <= self.min_tokens <= self.max_tokens, "from 0 to max_tokens"),
            "logit_bias": (
                all(-100 <= bias <= 100 for bias in self.logit_bias.values()),
                "from -100 to 100 for each id",
            ),
            "n": (self.n >= 1, "at least 1"),
            "logprobs": (self.logprobs is None or self.logprobs >= 0, "at least 0, or null"),
            "stop": (all(self.stop), "texts of at least one character"),
        }
        for name, (fits, rule) in limits.items():
            if not fits:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be {rule}")

    def check_ids(self, vocab_size: int) -> None:
        """Raises UserError for ids in logit_bias or stop_ids that the model does not have."""
        for name, ids in (("logit_bias", self.logit_bias), ("stop_ids", self.stop_ids)):
            for token in ids:
                if not 0 <= token < vocab_size:
                    raise UserError(f"{name} has the id {token}; the model knows 0 to {vocab_size - 1}")


class Constraint(Protocol):
    """What an answer may look like, followed token by token."""

    @property
    def done(self) -> bool:
        """Whether nothing can follow: the answer ends here."""

    def allowed(self) -> Tensor:
        """True for the ids that may come next, of the first ones of the vocabulary; the others may not."""

    def accept(self, token: int) -> None:
        """The answer goes on with it."""

    def copy(self) -> "Constraint":
        """The same at the same place, to try tokens with."""


class Sampler:
    """How the tokens of one answer are chosen: the settings, what was seen, and how many were drawn.

    The draw depends on these alone, so a seed gives the same answer whatever else the machine does at the time.
    """

    def __init__(self, config: SamplingConfig, prompt: Sequence[int], constraint: Constraint | None = None) -> None:
        self.config, self.constraint = config, constraint
        self._seed = secrets.randbits(63) if config.seed is None else config.seed
        self._drawn = 0
        self._bias = np.array(list(config.logit_bias), np.int64), np.array(list(config.logit_bias.values()), np.float32)
        self._penalizing = (config.repetition_penalty, config.presence_penalty, config.frequency_penalty) != (1, 0, 0)
        self._tokens = np.array(prompt if self._penalizing else (), np.int64)  # what was seen, and room for more
        self._prompted = self._seen = len(self._tokens)
        untouched = not (constraint or config.logit_bias or self._penalizing)
        unfiltered = (config.top_k, config.top_p, config.min_p, config.typical_p) == (0, 1, 0, 1)
        self._plain = untouched and (config.temperature == 0 or unfiltered)

    def copy(self) -> "Sampler":
        """The same at the same place, to try tokens with; it draws what this one will."""
        copied = copy(self)
        copied._tokens = self._tokens.copy()
        copied.constraint = None if self.constraint is None else self.constraint.copy()
        return copied

    @property
    def done(self) -> bool:
        """Whether the constraint leaves nothing to say."""
        return self.constraint is not None and self.constraint.done

    def choose(self, logits_V: Logits, forbidden: Sequence[int] = ()) -> int:
        """The next id; `accept` says that it is taken. Raises UserError for logits that are no numbers.

        forbidden: ids that may not come now, unless the constraint leaves nothing else.
        """
        if self._plain and not forbidden:
            return self._chosen(as_floats(logits_V))
        ids_N, logits_N = self.candidates(logits_V, forbidden)
        self._drawn += 1
        if self.config.temperature == 0:
            return int(ids_N[logits_N.argmax()])
        return int(ids_N[(logits_N + gumbel_noise(ids_N, self._seed, self._drawn)).argmax()])

    def candidates(self, logits_V: Logits, forbidden: Sequence[int] = ()) -> tuple[Places, Floats]:
        """Ids that are drawn from, at least one, and their logits: (N,) each."""
        config = self.config
        ids_N, logits_N = self._possible(self._changed(as_floats(logits_V)), forbidden)
        if not math.isfinite(logits_N.max()):
            raise _broken()
        if config.temperature == 0:
            return ids_N, logits_N
        logits_N = logits_N / np.float32(config.temperature)
        filters: Filters = (top_k, config.top_k, 0), (top_p, config.top_p, 1), (min_p, config.min_p, 0)
        for keep, setting, off in (*filters, (typical, config.typical_p, 1)):
            if setting != off:
                kept = keep(logits_N, setting)
                ids_N, logits_N = ids_N[kept], logits_N[kept]
        return ids_N, logits_N

    def _chosen(self, logits_V: Floats) -> int:
        """Of all ids as they are."""
        if self.config.temperature == 0:
            best = int(logits_V.argmax())
            if not math.isfinite(logits_V[best]):
                raise _broken()
            return best
        self._drawn += 1
        low, high = noise_key(self._seed, self._drawn)
        token = draw_kernel()(logits_V, self.config.temperature, low, high)
        if token < 0:
            raise _broken()
        return token

    def accept(self, token: int) -> None:
        """The answer goes on with this id."""
        if self._penalizing:
            if self._seen == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.zeros(max(64, self._seen), np.int64)])
            self._tokens[self._seen] = token
            self._seen += 1
        if self.constraint is not None:
            self.constraint.accept(token)

    def _changed(self, logits_V: Floats) -> Floats:
        """With bias and penalties; never in place."""
        config = self.config
        if not (config.logit_bias or self._penalizing):
            return logits_V
        logits_V, (ids, bias) = logits_V.copy(), self._bias
        logits_V[ids] += bias
        seen, answered = self._tokens[: self._seen], self._tokens[self._prompted : self._seen]
        if config.repetition_penalty != 1:
            logits_V[seen] = repetition(logits_V[seen], config.repetition_penalty)
        logits_V[answered] -= config.presence_penalty  # once, however often an id is among them
        np.subtract.at(logits_V, answered, np.float32(config.frequency_penalty))  # for each time
        return logits_V

    def _possible(self, logits_V: Floats, forbidden: Sequence[int]) -> tuple[Places, Floats]:
        if self.constraint is None:
            ids_N = np.arange(len(logits_V))
        else:
            ids_N = np.flatnonzero(self.constraint.allowed().numpy()[: len(logits_V)])
        if forbidden:
            others_N = ids_N[~np.isin(ids_N, forbidden)]
            ids_N = others_N if len(others_N) else ids_N
        return ids_N, logits_V if len(ids_N) == len(logits_V) else logits_V[ids_N]


def as_floats(logits_V: Logits) -> Floats:
    """The same in fp32, as NumPy has it."""
    return logits_V.float().numpy() if isinstance(logits_V, Tensor) else logits_V


def _broken() -> UserError:
    return UserError("the model's logits are no finite numbers: weights are damaged, or a dtype is too narrow")


@cache
def draw_kernel() -> Any:
    """The compiled draw."""
    from fromzero.kernels.compiling import first_use
    from fromzero.kernels.draw import draw

    with first_use("the draw of tokens"):
        draw(np.zeros(1, np.float32), 1.0, *noise_key(0, 0))
    return draw


def repetition(logits_N: Floats, penalty: float) -> Floats:
    """Of ids that came already: positive logits divided by the penalty, negative ones times it (Keskar 2019, 4.1)."""
    return np.where(logits_N > 0, logits_N / np.float32(penalty), logits_N * np.float32(penalty))


def top_k(logits_N: Floats, k: int) -> Places:
    """The k largest; among equals the first."""
    if k >= len(logits_N):
        return np.arange(len(logits_N))
    least = np.partition(logits_N, -k)[-k]
    more = np.flatnonzero(logits_N > least)
    return np.concatenate([more, np.flatnonzero(logits_N == least)[: k - len(more)]])


def top_p(logits_N: Floats, p: float) -> Places:
    """The shortest run of most likely ones whose probability reaches p (Holtzman 2019).

    Those below (1 - p) / N weigh less than 1 - p together, so the run ends before them: only the others are sorted.
    """
    probabilities_N = softmax(logits_N)
    likely = np.flatnonzero(probabilities_N >= (1 - p) / len(logits_N))
    sums = np.sort(probabilities_N[likely])[::-1].cumsum(dtype=np.float64)
    return likely[top_k(probabilities_N[likely], 1 + int(np.searchsorted(sums, p)))]


def min_p(logits_N: Floats, share: float) -> Places:
    """Those whose probability is at least `share` of the most likely one's (Nguyen 2024)."""
    return np.flatnonzero(logits_N >= logits_N.max() + np.float32(math.log(share)))


def typical(logits_N: Floats, p: float) -> Places:
    """Those whose surprise is closest to the entropy H, until their probability reaches p (Meister 2022, section 4).

    Surprises above 2 H lie farther from H than any below; those above log(N / (1 - p)) weigh less than 1 - p together.
    So what is above both is not reached, and need not be sorted.
    """
    probabilities_N = softmax(logits_N)
    surprise_N = -np.log(np.maximum(probabilities_N, np.finfo(np.float32).tiny))
    entropy = float((probabilities_N * surprise_N).sum())
    near = np.flatnonzero(surprise_N <= max(2 * entropy, math.log(len(logits_N) / (1 - p))))
    near = near[np.abs(surprise_N[near] - entropy).argsort(kind="stable")]
    return near[: 1 + int(np.searchsorted(probabilities_N[near].cumsum(dtype=np.float64), p))]


def softmax(logits_N: Floats) -> Floats:
    """Probabilities."""
    powers_N = np.exp(logits_N - logits_N.max())
    return powers_N / powers_N.sum()


def noise_key(seed: int, draw: int) -> tuple[np.uint32, np.uint32]:
    """The halves of what a draw's noise comes from: seed and number, mixed by SplitMix64 (Steele 2014)."""
    key = (seed + draw * 0x9E3779B97F4A7C15) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        key = (key ^ key >> shift) * factor % 2**64
    return np.uint32(key % 2**32), np.uint32(key >> 32)


def gumbel_noise(ids_N: Places, seed: int, draw: int) -> Floats:
    """What is added to logits so that the largest is one drawn by their softmax (Maddison 2014, "A* sampling").

    The noise of an id depends on seed, number of the draw and id alone: whatever else may be drawn, and for two models
    that nearly agree, it is the same (Daliri 2024). It is mixed with the key by a hash of 32 bits (Wellons 2018,
    "Prospecting for hash functions"). `kernels.draw` is quicker where all ids may come.
    """
    low, high = noise_key(seed, draw)
    bits_N = ids_N.astype(np.uint32) * np.uint32(0x9E3779B9) + low
    bits_N = (bits_N ^ bits_N >> np.uint32(16)) * np.uint32(0x21F0AAAD) ^ high
    bits_N = (bits_N ^ bits_N >> np.uint32(15)) * np.uint32(0x735A2D97)
    bits_N ^= bits_N >> np.uint32(15)
    uniform_N = (bits_N.astype(np.float32) + np.float32(0.5)) * np.float32(2**-32 * (1 - 2**-23))  # inside 0 and 1
    return -np.log(-np.log1p(-uniform_N))
