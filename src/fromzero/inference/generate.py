"""Generation: the prompt in one pass, then a token at a time through the cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fromzero.errors import UserError
from fromzero.inference.answer import Answer
from fromzero.inference.cache import KVCache
from fromzero.inference.request import Reason, Request
from fromzero.inference.sampling import Sampler, SamplingConfig
from fromzero.model import Transformer
from fromzero.tokenizer import Tokenizer


@torch.inference_mode()
def generate_tokens(
    model: Transformer,
    prompt: Sequence[int],
    config: SamplingConfig,
    stop_ids: frozenset[int] = frozenset(),
    cached: bool = True,
) -> Iterator[int]:
    """Yield ids after the prompt until an id of `stop_ids` (not yielded), max_tokens, or the end of the context.

    The plain way, which the engine must equal; before min_tokens, none of `stop_ids` comes.
    cached=False computes every position anew for each token: slow, the reference that the cached way must equal.
    Raises UserError for an empty prompt or one that fills the context.
    """
    limit = model.config.context - len(prompt)
    if not prompt:
        raise UserError("the prompt is empty; give at least one token")
    if limit < 1:
        raise UserError(
            f"the prompt has {len(prompt)} tokens and the model's context is {model.config.context}; shorten the prompt"
        )
    device = model.device
    config.check_ids(model.config.vocab_size)
    sampler, ends = Sampler(config, prompt), sorted(stop_ids)
    capacity = len(prompt) + min(config.max_tokens, limit)
    cache = KVCache(model.config, 1, capacity, model.compute_dtype, device) if cached else None
    ids = torch.tensor([list(prompt)], device=device)
    new = ids
    for count in range(min(config.max_tokens, limit)):
        logits_V = model(new if cached else ids, cache)[0, -1]
        token = sampler.choose(logits_V.cpu(), ends if count < config.min_tokens else ())
        if token in stop_ids:
            return
        sampler.accept(token)
        yield token
        new = torch.tensor([[token]], device=device)
        ids = torch.cat([ids, new], dim=1)


@dataclass
class Generation:
    """An answer in the making: iterate over it for pieces of text; afterwards it says how it ended."""

    pieces: Iterator[str]
    tokens: int = 0
    reason: Reason = "stop"

    def __iter__(self) -> Iterator[str]:
        return self.pieces

    def text(self) -> str:
        """Everything that is still to come, as one text."""
        return "".join(self.pieces)


def generate_text(
    model: Transformer, tokenizer: Tokenizer, prompt: Sequence[int], config: SamplingConfig, goes_on: bool = False
) -> Generation:
    """Generate text after the prompt, piece by piece, never half a character, ending before any stop text.

    Every special token but the unknown one ends it: a model has no business writing the markers of a turn itself.
    goes_on: it goes on from words of the prompt, so a blank that comes first is kept; else it is a text of its own.
    """
    generation = Generation(iter(()))
    answer = Answer(Request("", tuple(prompt), config, goes_on=goes_on), tokenizer)

    def pieces() -> Iterator[str]:
        for token in generate_tokens(model, prompt, config, answer.ends):
            generation.tokens += 1
            full = len(prompt) + generation.tokens >= model.config.context
            output = answer.add(token, over="context" if full else None)
            if output.text:
                yield output.text
            if output.reason:
                generation.reason = output.reason
                return
        yield answer.end("stop").text

    generation.pieces = pieces()
    return generation
