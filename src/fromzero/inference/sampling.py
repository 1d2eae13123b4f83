"""From logits to one id. Each step is a pure function on a vector of logits (V,), and they apply in this order:
repetition penalty, temperature, top-k, top-p, min-p, draw."""

from dataclasses import dataclass

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
    repetition_penalty: float = 1.0
    """Above 1, tokens seen before become less likely (Keskar 2019); 1 changes nothing."""
    max_tokens: int = 256
    """Longest answer, tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    seed: int | None = None
    """Seed of the draw; null draws differently each time."""

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self.temperature == 0 or 1e-3 <= self.temperature < 1e3, "0, or from 0.001 to 1000"),
            "seed": (self.seed is None or 0 <= self.seed < 2**63, "at least 0 and below 2^63, or null"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "stop": (all(self.stop), "texts of at least one character"),
        }
        for name, (fits, rule) in limits.items():
            if not fits:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be {rule}")


def sample(logits_V: Tensor, seen: Tensor, config: SamplingConfig, generator: torch.Generator) -> int:
    """The next id. seen: ids of the prompt and the answer so far, (N,), for the repetition penalty."""
    logits_V = penalize_repetition(logits_V.float(), seen, config.repetition_penalty)
    if config.temperature == 0:
        return int(logits_V.argmax())
    logits_V = keep_top_k(logits_V / config.temperature, config.top_k)
    logits_V = drop_below_min_p(keep_top_p(logits_V, config.top_p), config.min_p)
    return int(torch.multinomial(logits_V.softmax(-1), 1, generator=generator))


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
