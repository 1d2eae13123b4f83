"""From logits to one id. Each step is a pure function on a vector of logits (V,), and they apply in this order: what a
constraint forbids, the bias of ids, penalties, temperature, top-k, top-p, min-p, typical, draw."""

from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fromzero.errors import UserError

NEVER = float("-inf")


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
    """Added to the logits of these ids."""
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
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "from -2 to 2"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "from -2 to 2"),
            "min_tokens": (0 <= self.min_tokens <= self.max_tokens, "from 0 to max_tokens"),
            "n": (self.n >= 1, "at least 1"),
            "logprobs": (self.logprobs is None or self.logprobs >= 0, "at least 0, or null"),
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "stop": (all(self.stop), "texts of at least one character"),
        }
        for name, (fits, rule) in limits.items():
            if not fits:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be {rule}")


class Constraint(Protocol):
    """What an answer may look like, followed token by token."""

    def allowed(self) -> Tensor:
        """True for the ids that may come next, (V,)."""

    def accept(self, token: int) -> None:
        """The answer goes on with it."""

    def copy(self) -> "Constraint":
        """The same at the same place, to try tokens with."""


class Sampler:
    """How the tokens of one answer are chosen: the settings, what was seen, and a generator of its own.

    So a seed gives the same answer whatever else the machine does at the time.
    """

    def __init__(self, config: SamplingConfig, prompt: Sequence[int], constraint: Constraint | None = None) -> None:
        self.config, self.constraint = config, constraint
        self._seen, self._answered = set(prompt), Counter[int]()
        self._generator = torch.Generator()
        self._generator.manual_seed(config.seed) if config.seed is not None else self._generator.seed()

    def copy(self) -> "Sampler":
        """The same at the same place, to try tokens with; it draws what this one will."""
        copied = copy(self)
        copied._seen, copied._answered = self._seen.copy(), self._answered.copy()
        copied._generator = self._generator.clone_state()
        copied.constraint = None if self.constraint is None else self.constraint.copy()
        return copied

    def logits(self, logits_V: Tensor, forbidden: Sequence[int] = ()) -> Tensor:
        """What is drawn from, as logits (V,) in fp32; forbidden: ids that may not come now."""
        config, logits_V = self.config, logits_V.float()
        if self.constraint is not None:
            logits_V = logits_V.masked_fill(~self.constraint.allowed(), NEVER)
        if forbidden:
            logits_V = logits_V.index_fill(0, torch.tensor(forbidden), NEVER)
        logits_V = add_bias(logits_V, config.logit_bias)
        if config.repetition_penalty != 1:
            logits_V = penalize_repetition(logits_V, torch.tensor(sorted(self._seen)), config.repetition_penalty)
        logits_V = penalize_counts(logits_V, self._answered, config.presence_penalty, config.frequency_penalty)
        if config.temperature == 0:
            return logits_V
        logits_V = keep_top_k(logits_V / config.temperature, config.top_k)
        logits_V = drop_below_min_p(keep_top_p(logits_V, config.top_p), config.min_p)
        return keep_typical(logits_V, config.typical_p)

    def choose(self, logits_V: Tensor, forbidden: Sequence[int] = ()) -> int:
        """The next id; `accept` says that it is taken."""
        logits_V = self.logits(logits_V, forbidden)
        if self.config.temperature == 0:
            return int(logits_V.argmax())
        return int(torch.multinomial(logits_V.softmax(-1), 1, generator=self._generator))

    def accept(self, token: int) -> None:
        """The answer goes on with this id."""
        self._seen.add(token)
        self._answered[token] += 1
        if self.constraint is not None:
            self.constraint.accept(token)


def add_bias(logits_V: Tensor, bias: dict[int, float]) -> Tensor:
    """Add numbers to the logits of some ids."""
    if not bias:
        return logits_V
    return logits_V.index_add(0, torch.tensor(list(bias)), torch.tensor(list(bias.values()), dtype=logits_V.dtype))


def penalize_counts(logits_V: Tensor, counts: dict[int, int], presence: float, frequency: float) -> Tensor:
    """Take from the logits of ids that came already: presence once, frequency for each time (OpenAI's definition)."""
    if not counts or (presence == 0 and frequency == 0):
        return logits_V
    ids, times = torch.tensor(list(counts)), torch.tensor(list(counts.values()), dtype=logits_V.dtype)
    return logits_V.index_add(0, ids, -(presence + frequency * times))


def penalize_repetition(logits_V: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive logits of seen ids by the penalty and multiply negative ones (Keskar 2019, section 4.1)."""
    if penalty == 1.0 or not len(seen):
        return logits_V
    ids = seen.unique()
    picked = logits_V[ids]
    return logits_V.index_put((ids,), torch.where(picked > 0, picked / penalty, picked * penalty))


def keep_top_k(logits_V: Tensor, k: int) -> Tensor:
    """Keep the k largest; 0 keeps all. Exactly k are kept, also among equals."""
    if not 0 < k < len(logits_V):
        return logits_V
    values, ids = logits_V.topk(k)
    return torch.full_like(logits_V, NEVER).index_put((ids,), values)


def keep_top_p(logits_V: Tensor, p: float) -> Tensor:
    """Keep the shortest run of most likely ids whose probability reaches p (Holtzman 2019); 1 keeps all."""
    if p >= 1:
        return logits_V
    sorted_V, ids = logits_V.sort(descending=True)
    probabilities = sorted_V.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # what is held without this one: the first always stays
    return torch.full_like(logits_V, NEVER).index_put((ids,), sorted_V.masked_fill(before >= p, NEVER))


def drop_below_min_p(logits_V: Tensor, share: float) -> Tensor:
    """Drop ids whose probability is below share x that of the most likely one (Nguyen 2024); 0 drops none."""
    if share == 0:
        return logits_V
    probabilities = logits_V.softmax(-1)
    return logits_V.masked_fill(probabilities < share * probabilities.max(), NEVER)


def keep_typical(logits_V: Tensor, p: float) -> Tensor:
    """Keep the ids whose surprise is closest to the entropy, up to probability p (Meister 2022, section 4); 1: all."""
    if p >= 1:
        return logits_V
    log_p = logits_V.log_softmax(-1)
    entropy = -(log_p.exp() * log_p.nan_to_num(neginf=0.0)).sum()
    order = (-log_p - entropy).abs().argsort(stable=True)
    probabilities = log_p.exp()[order]
    kept = order[probabilities.cumsum(-1) - probabilities < p]
    return torch.full_like(logits_V, NEVER).index_put((kept,), logits_V[kept])
