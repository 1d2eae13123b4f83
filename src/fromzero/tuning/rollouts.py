"""Answers that a model learns from: spoken by the model as it is now, scored, and dealt out as batches.

Each rank speaks and scores some of the answers, and all get all of them, so what a checkpoint keeps is the same on all
ranks and a run goes on in the middle of a rollout. Tokens are kept as they were drawn and never encoded again. Legend:
B answers of a rollout, one a row, those to the same prompt one behind the other; T tokens.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fromzero.console import say
from fromzero.device import DtypeName
from fromzero.errors import UserError
from fromzero.inference import SamplingConfig
from fromzero.inference.request import Output
from fromzero.model.linear_loss import IGNORE
from fromzero.parallel import World

Tensors = dict[str, Tensor]
Score = Callable[[Sequence[int], Sequence[str]], Sequence[float | None]]
"""(numbers of prompts, an answer to each) -> their rewards; None or NaN where there is none to give."""
Extend = Callable[[Tensors], Mapping[str, Tensor]]
"""(all rows of a rollout) -> further tensors with as many rows; called once a rollout, by all ranks."""
_GOLDEN = 0x9E3779B97F4A7C15  # spreads seeds of runs, so that their answers' seeds do not meet


class Speaks(Protocol):
    """Who answers: tuning.speaker.Speaker, or tuning.remote_speaker.RemoteSpeaker."""

    def say(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> list[list[Output]]:
        """`sampling.n` answers to each prompt, with the log-probability by which each token was drawn."""


@dataclass(frozen=True)
class RolloutConfig:
    """How many answers are made at once, and how they are used.

    Tokens are always drawn from the whole distribution at the temperature: with top-k or top-p the log-probabilities
    that are learned would not be those of what was drawn.
    """

    answers: int = 8
    """Answers to each prompt; they are a group, whose rewards are compared."""
    mini_batches: int = 1
    """Optimizer steps among which the answers of a rollout are shared; a rollout has train.batch_size times so many
    answers."""
    epochs: int = 1
    """How often each answer is learned from."""
    max_tokens: int = 256
    """Longest answer, tokens."""
    temperature: float = 1.0
    """Of what is drawn, and of the log-probabilities that are learned."""
    truncated: Literal["keep", "mask"] = "keep"
    """Whether answers that did not come to an end carry loss, or are left out of it and of what it is divided by."""
    overlong: int = 0
    """The reward falls by up to 1 over so many last tokens before max_tokens (DAPO, eq. 13); 0: it does not."""
    tries: int = 1
    """Above 1: groups whose rewards are all alike are replaced by new ones up to so many times less one, and those that
    are left carry no loss (DAPO's dynamic sampling)."""
    dtype: DtypeName = "float32"
    """What the copy of the model that speaks computes in."""
    url: str | None = None
    """A server that answers in place of this process, such as http://127.0.0.1:8000; its key is in FROMZERO_API_KEY."""
    served: str | None = None
    """What the server calls the model that is trained; null takes the first that it names."""
    adapters_folder: Path | None = None
    """Folder by which adapters come to the server as they are trained, which has it at the same path."""

    def __post_init__(self) -> None:
        for name in ("answers", "mini_batches", "epochs", "max_tokens", "tries"):
            if getattr(self, name) < 1:
                raise UserError(f"rollouts.{name} is {getattr(self, name)}; it must be at least 1")
        if not 0.01 <= self.temperature <= 100:
            raise UserError(f"rollouts.temperature is {self.temperature}; to learn it must be from 0.01 to 100")
        if self.tries > 1 and self.answers < 2:
            raise UserError(
                "rollouts.tries replaces groups whose rewards are alike: rollouts.answers must be at least 2"
            )
        if not 0 <= self.overlong < self.max_tokens:
            raise UserError(f"rollouts.overlong is {self.overlong}; it must be at least 0 and below max_tokens")

    @property
    def updates(self) -> int:
        """Optimizer steps of a rollout."""
        return self.mini_batches * self.epochs


class Spoken(NamedTuple):
    """An answer of a rollout."""

    prompt: int
    """Number of its prompt."""
    tokens: tuple[int, ...]
    """Ids as they were drawn, with the one that ended it."""
    logprobs: tuple[float, ...]
    """Of each token, as it was drawn."""
    reward: float
    """What is learned from: the score, less what is taken off overlong answers. NaN: there is none to learn from."""
    score: float
    """What it was scored. NaN: there is none."""
    whole: bool
    """Whether it came to an end by itself."""


class Rollouts:
    """The loader of a run that learns from its own answers; its batches are dicts with this rank's rows."""

    def __init__(
        self,
        config: RolloutConfig,
        prompts: Sequence[Sequence[int]],
        speaker: Speaks,
        score: Score,
        extend: Extend,
        sync: Callable[[], None],
        batch_size: int,
        seed: int,
        world: World,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """prompts: token ids. sync: called before a rollout, brings the model's weights to the speaker.

        batch_size: answers of an optimizer step on all ranks. share: this rank's rows are r, r + n, ... of it, (r, n).
        Raises UserError when sizes don't fit.
        """
        self.rows = batch_size * config.mini_batches
        if self.rows % config.answers or batch_size % share[1]:
            raise UserError(
                f"train.batch_size ({batch_size}) times rollouts.mini_batches ({config.mini_batches}) must be a "
                f"multiple of rollouts.answers ({config.answers}), and it alone of the {share[1]} ranks"
            )
        self.config, self.prompts, self.speaker, self.score, self.extend = config, prompts, speaker, score, extend
        self.sync, self.batch_size, self.seed, self.world, self.share = sync, batch_size, seed, world, share
        self.unscored = 0
        """Answers so far that had no score."""
        self.asked = 0
        """Prompts that were answered so far."""
        self.rollout = 0
        """Rollouts that were begun."""
        self.update = config.updates
        """Optimizer steps of the rollout in flight that were dealt."""
        self.tensors: Tensors = {}
        """The rollout in flight."""

    def next_batch(self) -> Tensors:
        """This rank's rows of the next optimizer step.

        ids_BT, targets_BT (-100 but at the answer's tokens), sampled_BT (log-probabilities of the targets as they were
        drawn), rewards_B (NaN: none to learn from), scores_B (before anything is taken off, of all answers; NaN: none),
        whole_B (whether it came to an end), lengths_B, deviations_B (of the scores of its group), and what `extend`
        adds.
        """
        if self.update == self.config.updates:
            self.sync()
            self.tensors = self._rows(self._groups())
            self.tensors |= self.extend(self.tensors)
            self.rollout, self.update = self.rollout + 1, 0
        epoch, part = divmod(self.update, self.config.mini_batches)
        self.update += 1
        order_B = torch.arange(self.rows)
        if self.config.mini_batches > 1:
            generator = torch.Generator().manual_seed((self.seed * _GOLDEN + self.rollout * 4096 + epoch) % 2**63)
            order_B = torch.randperm(self.rows, generator=generator)
        chosen_B = order_B[part * self.batch_size : (part + 1) * self.batch_size]
        batch = {name: tensor[chosen_B] for name, tensor in self.tensors.items()}
        used = (batch["targets_BT"] != IGNORE).any(0).nonzero()
        longest = int(used[-1]) + 1 if len(used) else 1
        rank, ranks = self.share
        return {n: (t[:, :longest] if n.endswith("_BT") else t)[rank::ranks] for n, t in batch.items()}

    def state_dict(self) -> dict[str, Any]:
        """Where it is, with the rollout in flight."""
        kept = {} if self.update == self.config.updates else self.tensors
        tensors = {name: _packed(tensor) for name, tensor in kept.items()}
        places = {"asked": self.asked, "rollout": self.rollout, "update": self.update, "unscored": self.unscored}
        return {**places, "tensors": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go there."""
        self.asked, self.rollout, self.update = state["asked"], state["rollout"], state["update"]
        self.unscored = state["unscored"]
        self.tensors = {name: _unpacked(packed) for name, packed in state["tensors"].items()}

    def _groups(self) -> list[list[Spoken]]:
        """Groups of answers; those that carry no loss, since nothing else came, have no rewards."""
        wanted, kept, alike = self.rows // self.config.answers, list[list[Spoken]](), list[list[Spoken]]()
        for _ in range(self.config.tries):
            for group in self._speak(self._next_prompts(wanted - len(kept))):
                known = {spoken.score for spoken in group if not math.isnan(spoken.score)}
                (kept if self.config.tries == 1 or len(known) > 1 else alike).append(group)
            if len(kept) == wanted:
                break
        if rest := alike[: wanted - len(kept)]:
            say(f"warning: {len(rest)} of {wanted} groups carry no loss: the scores in each are alike")
        kept += [[s._replace(reward=math.nan) for s in group] for group in rest]
        missing = sum(math.isnan(spoken.score) for group in kept for spoken in group)
        if missing:
            say(f"warning: {missing} of {self.rows} answers have no usable reward and carry no loss")
        return kept

    def _next_prompts(self, count: int) -> list[int]:
        """Numbers of prompts, in an order of their own in each pass over them."""
        found = list[int]()
        for place in range(self.asked, self.asked + count):
            epoch, index = divmod(place, len(self.prompts))
            if not found or index == 0:
                generator = torch.Generator().manual_seed((self.seed * _GOLDEN + epoch) % 2**63)
                order = torch.randperm(len(self.prompts), generator=generator).tolist()
            found.append(order[index])
        return found

    def _speak(self, numbers: Sequence[int]) -> list[list[Spoken]]:
        """A group for each prompt; each rank makes some of them."""
        config, size = self.config, -(-len(numbers) // self.world.size)
        first = min(self.world.rank * size, len(numbers))
        mine = numbers[first : first + size]
        seed = (self.seed * _GOLDEN + (self.asked + first) * config.answers) % 2**62
        self.asked += len(numbers)
        sampling = SamplingConfig(
            config.temperature, top_p=1.0, max_tokens=config.max_tokens, n=config.answers, logprobs=0, seed=seed
        )
        groups = self.speaker.say([self.prompts[number] for number in mine], sampling) if mine else []
        flat = [(number, output) for number, group in zip(mine, groups, strict=True) for output in group]
        rewards = guarded(self.score, [number for number, _ in flat], [output.text for _, output in flat])
        spoken = [self._spoken(*pair, reward) for pair, reward in zip(flat, rewards, strict=True)]
        every = [answer for part in self.world.gather(spoken) for answer in part]
        self.unscored += sum(math.isnan(answer.score) for answer in every)
        return [every[start : start + config.answers] for start in range(0, len(every), config.answers)]

    def _spoken(self, number: int, output: Output, score: float) -> Spoken:
        tokens, config = output.tokens, self.config
        if isinstance(output.stop, int):  # what ends an answer is learned like the rest
            tokens = (*tokens, output.stop)
        if output.reason == "error" or len(output.logprobs) != len(tokens) or not tokens:
            return Spoken(number, (0,), (0.0,), math.nan, math.nan, False)
        penalty = overlong_penalty(len(tokens), config.max_tokens, config.overlong) if config.overlong else 0.0
        logprobs = tuple(noted.logprob for noted in output.logprobs)
        return Spoken(number, tokens, logprobs, score + penalty, score, output.reason == "stop")

    def _rows(self, groups: Sequence[Sequence[Spoken]]) -> Tensors:
        """One answer a row behind its prompt, padded on the right."""
        ids, targets, sampled = [], [], []
        spoken = [answer for group in groups for answer in group]
        for answer in spoken:
            text = torch.tensor([*self.prompts[answer.prompt], *answer.tokens])
            asked = len(text) - len(answer.tokens) - 1  # places whose next token is the prompt's
            learned = not math.isnan(answer.reward) and (answer.whole or self.config.truncated == "keep")
            ids.append(text[:-1])
            targets.append(text[1:].clone())
            targets[-1][: asked if learned else None] = IGNORE
            sampled.append(torch.cat([torch.zeros(asked), torch.tensor(answer.logprobs)]))
        return {
            "ids_BT": pad_sequence(ids, batch_first=True),
            "targets_BT": pad_sequence(targets, batch_first=True, padding_value=IGNORE),
            "sampled_BT": pad_sequence(sampled, batch_first=True),
            "rewards_B": torch.tensor([answer.reward for answer in spoken], dtype=torch.float32),
            "scores_B": torch.tensor([answer.score for answer in spoken], dtype=torch.float32),
            "whole_B": torch.tensor([answer.whole for answer in spoken]),
            "lengths_B": torch.tensor([len(answer.tokens) for answer in spoken]),
            "deviations_B": torch.tensor([_deviation(group) for group in groups for _ in group]),
        }


def _deviation(group: Sequence[Spoken]) -> float:
    known = [spoken.score for spoken in group if not math.isnan(spoken.score)]
    return stdev(known) if len(known) > 1 else 0.0


def overlong_penalty(length: int, longest: int, room: int) -> float:
    """0 up to longest - room tokens, then down to -1 at `longest` (DAPO, Yu et al. 2025, eq. 13)."""
    return -max(0, length - (longest - room)) / room


def guarded(score: Score, numbers: Sequence[int], answers: Sequence[str]) -> list[float]:
    """Rewards; NaN where there is none, be it that scoring fails, which is then tried for each answer alone."""
    try:
        rewards = score(numbers, answers)
    except UserError:  # of the settings, not of an answer
        raise
    except Exception as error:  # whatever a user's reward does, the run goes on
        if len(answers) > 1:
            return [guarded(score, [n], [a])[0] for n, a in zip(numbers, answers, strict=True)]
        say(f"warning: the reward of an answer failed ({type(error).__name__}: {error})")
        return [math.nan]
    return [math.nan if r is None or not math.isfinite(r) else float(r) for r in rewards]


def _packed(tensor: Tensor) -> dict[str, Any]:
    array = tensor.contiguous().numpy()
    return {"dtype": str(array.dtype), "shape": array.shape, "data": base64.b64encode(array.tobytes()).decode()}


def _unpacked(packed: Mapping[str, Any]) -> Tensor:
    array = np.frombuffer(base64.b64decode(packed["data"]), np.dtype(packed["dtype"])).reshape(packed["shape"])
    return torch.from_numpy(array.copy())
