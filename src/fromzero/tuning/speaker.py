"""A model that is being tuned, speaking through the engine: for rollouts, and for answers before and after.

The engine has a copy of the model, into which weights are copied in place whenever they have changed; adapters are
merged on the way. So it may compute in another dtype, and the model may be spread over ranks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromzero.device import DtypeName, pick_dtype
from fromzero.inference import SamplingConfig
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.request import Output, Request
from fromzero.interop.huggingface import build
from fromzero.model import Transformer
from fromzero.model.adapters import plain_state
from fromzero.model.heads import HeadConfig
from fromzero.model.narrow import to_compute
from fromzero.tokenizer import Tokenizer


class Speaker:
    """An engine on a copy of a model."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, dtype: DtypeName = "float32", config: EngineConfig | None = None
    ) -> None:
        """A copy of `model` as it is now, without adapters and heads, on its device."""
        place = model.device
        copied: Any = build(model.config, HeadConfig(), torch.float32, Path("the model"))
        to_compute(copied, pick_dtype(dtype, place))
        self.model: Transformer = copied.to_empty(device=place).eval().requires_grad_(False)
        self._names = count()
        self._copy(plain_state(model))
        self.engine = Engine(self.model, tokenizer, config)

    def sync(self, state: Iterable[tuple[str, Tensor]]) -> None:
        """Take over weights, by name, as `plain_state(model)` gives them; further names are passed over."""
        self._copy(state)
        self.engine.refresh()

    @torch.no_grad()
    def _copy(self, state: Iterable[tuple[str, Tensor]]) -> None:
        own = self.model.state_dict()
        for name, tensor in state:
            if name in own:
                own[name].copy_(tensor.view_as(own[name]))

    def say(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[list[Output]]:
        """The answers to each prompt (ids), `sampling.n` each, whole: Output.text, .tokens, .logprobs, .reason, .stop.

        The seed of prompt i's answer j is sampling.seed + i n + j. Output.stop is the id that ended it, if one did; it
        is not among the tokens, but its log-probability is the last. These are at the temperature, as tokens are drawn.
        """
        seeds = [None if sampling.seed is None else sampling.seed + i * sampling.n for i in range(len(prompts))]
        settings = [replace(sampling, seed=seed) for seed in seeds]
        pairs = zip(prompts, settings, strict=True)
        requests = [Request(f"r{next(self._names)}", tuple(p), s, drawn=True) for p, s in pairs]
        found = self.engine.answers(requests)
        return [[_whole(found[request.id, index]) for index in range(sampling.n)] for request in requests]


def _whole(outputs: Sequence[Output]) -> Output:
    tokens = tuple(token for output in outputs for token in output.tokens)
    logprobs = tuple(logprob for output in outputs for logprob in output.logprobs)
    return replace(outputs[-1], tokens=tokens, text="".join(output.text for output in outputs), logprobs=logprobs)
