"""Rollouts by a server that speaks OpenAI's protocol, fromzero's or vLLM's, in place of the own engine.

Token ids go there and come back: a text that is encoded again need not give the tokens that were drawn.
"""

import asyncio
import math
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from typing import Any

from fromzero.console import say
from fromzero.errors import UserError
from fromzero.inference import SamplingConfig
from fromzero.inference.answer import Answer
from fromzero.inference.client import Server, request_fields
from fromzero.inference.engine import joined
from fromzero.inference.request import Logprob, Output, Request
from fromzero.interop.adapters import save_adapters
from fromzero.locations import masked
from fromzero.parallel import Fleet
from fromzero.tokenizer import Tokenizer
from fromzero.tuning.base import TuningConfig
from fromzero.tuning.rollouts import RolloutConfig

AT_ONCE = 16  # prompts
# Tokens are drawn from the whole distribution: said, since vLLM else takes what the model's folder proposes.
ASKED = {"logprobs": 0, "return_token_ids": True, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class RemoteSpeaker:
    """A server that answers; see rollouts.Speaks."""

    def __init__(self, tuning: TuningConfig, config: RolloutConfig, tokenizer: Tokenizer) -> None:
        """Raises UserError when the server does not answer."""
        self.tuning, self.config, self.tokenizer = tuning, config, tokenizer
        self.server = Server(config.url or "")
        self.base = self.asked = asyncio.run(self.server.named(config.served, "rollouts.served"))
        if not tuning.adapters:
            say("warning: without adapters the server's weights stay what they are: answers become off-policy")
        if config.temperature != 1:
            say("warning: vLLM gives log-probabilities at the temperature only with --logprobs-mode processed_logprobs")

    def say(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[list[Output]]:
        """See Speaker.say: the same answers for the same seeds, where the server is fromzero's. Raises UserError."""
        room = asyncio.Semaphore(AT_ONCE)

        async def ask(place: int, prompt: Sequence[int]) -> list[Output]:
            seed = None if sampling.seed is None else sampling.seed + place * sampling.n
            body = {"model": self.asked, "prompt": list(prompt), "n": sampling.n, **ASKED}
            async with room:
                said = await self.server.post("/completions", body | request_fields(replace(sampling, seed=seed)))
            return self._outputs(said, Request("", tuple(prompt), sampling))

        async def ask_all() -> list[list[Output]]:
            return await asyncio.gather(*(ask(*pair) for pair in enumerate(prompts)))

        return asyncio.run(ask_all())

    def _outputs(self, said: Any, request: Request) -> list[Output]:
        try:
            choices, known = said["choices"], range(self.tokenizer.vocab_size)
            drawn = [list(zip(c["token_ids"], c["logprobs"]["token_logprobs"], strict=True)) for c in choices]
            good = all(type(t) is int and t in known and math.isfinite(p) for pairs in drawn for t, p in pairs)
            if not (good and all(drawn) and len(drawn) == request.sampling.n):
                raise ValueError
            return [self._output(request, *pair) for pair in zip(drawn, choices, strict=True)]
        except (LookupError, TypeError, ValueError):
            raise UserError(
                f"{masked(self.server.url)} gives no token ids of this model with their log-probabilities, and texts "
                "must not be encoded again; use fromzero serve, or vLLM from 0.10.2, on the model that is trained"
            ) from None

    def _output(self, request: Request, drawn: Sequence[tuple[int, float]], choice: Any) -> Output:
        """As the own engine gives it, with its text and its end, whatever the server takes for these."""
        answer, outputs, stopped = Answer(request, self.tokenizer), list[Output](), choice["finish_reason"] == "stop"
        for place, pair in enumerate(drawn, 1):
            output = answer.add(pair[0], (), None if place < len(drawn) else "stop" if stopped else "context")
            outputs.append(replace(output, logprobs=(Logprob(*pair),)))
            if output.reason:
                break
        return reduce(joined, outputs)

    def follow(self, fleet: Fleet) -> None:
        """Bring the fleet's adapters to the server, by vLLM's routes; all ranks call it. Raises UserError."""
        name = fleet.world.share(f"rollouts-{secrets.token_hex(8)}")  # new: servers keep what they computed by a name
        if not (self.tuning.adapters and self.config.adapters_folder):
            return
        if (whole := fleet.whole_model()) is not None:
            folder = self.config.adapters_folder.resolve() / name
            save_adapters(whole, folder, self.tuning.adapters, str(self.tuning.model))
            try:
                asyncio.run(self.server.post("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}))
            except UserError as error:
                how = "(fromzero serve --allow_adapter_loading; VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm --enable-lora)"
                raise UserError(f"adapters in {folder} are not loaded {how}: {error}") from None
            self.close()
        self.asked = fleet.world.share(name)  # others wait until it is there

    def close(self) -> None:
        """Take the adapters away from the server, and their files."""
        if self.asked != self.base and self.config.adapters_folder:
            with suppress(UserError):  # it is gone
                asyncio.run(self.server.post("/unload_lora_adapter", {"lora_name": self.asked}))
            shutil.rmtree(self.config.adapters_folder / self.asked, ignore_errors=True)
