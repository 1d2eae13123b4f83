"""`fromzero align grpo`: group relative policy optimization, and what has become of it since.

Each answer is compared with the others to the same prompt, so no second model has to say what was to be expected. What
the variants differ in are options here, and a preset is nothing but a choice of them.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor

from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.model.adapters import adapters
from fromzero.parallel import Fleet
from fromzero.parallel.fleet import Batch
from fromzero.tuning.advantages import Advantage, advantages
from fromzero.tuning.policy import Policy, measured
from fromzero.tuning.policy_losses import (
    Divergence,
    Level,
    Normalizer,
    clipped_loss,
    kl_divergence,
    log_ratios,
    sampler_weights,
)
from fromzero.tuning.practice import PracticeConfig, practise


@dataclass(frozen=True)
class Options:
    """What the variants differ in; the defaults are GRPO's (Shao et al. 2024)."""

    advantage: Advantage | None = "group_std"
    """How a reward is compared; see tuning.advantages."""
    normalizer: Normalizer | None = "sequence"
    """What the loss is divided by: means of answers, tokens, or a constant; see tuning.policy_losses."""
    level: Level | None = "token"
    """Whether ratios are those of tokens, or the geometric mean over an answer."""
    clip_low: float | None = 0.2
    """Ratios below 1 minus this earn nothing more."""
    clip_high: float | None = 0.2
    """Ratios above 1 plus this earn nothing more."""
    beta: float | None = 0.04
    """Weight of the divergence from the model at the start."""


PRESETS = {
    "grpo": Options(),
    "dr_grpo": Options("group", "constant", beta=0.0),  # Liu et al. 2025: no deviation, no lengths
    "dapo": Options(normalizer="token", clip_high=0.28, beta=0.0),  # Yu et al. 2025; see rollouts.tries and overlong
    "gspo": Options(level="sequence", clip_low=3e-4, clip_high=4e-4, beta=0.0),  # Zheng et al. 2025, 5.1
}


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(PracticeConfig):
    """What is practised, and how; options that are null are the preset's."""

    preset: Literal["grpo", "dr_grpo", "dapo", "gspo"] = "grpo"
    """The variant."""
    options: Options = Options(None, None, None, None, None, None)
    """What differs from it."""
    divergence: Divergence = "k3"
    """The estimate of the divergence."""
    dual_clip: float | None = None
    """Above 1: bound of ratios for answers that did worse; null: none."""
    sampler_bound: float = 3.0
    """Tokens count by how much likelier they are to the model than to its copy that spoke, at most so much."""

    def __post_init__(self) -> None:
        super().__post_init__()
        chosen = self.chosen
        if self.rollouts.answers < 2:
            raise UserError("rollouts.answers must be at least 2: answers are compared with others to the same prompt")
        if chosen.clip_low < 0 or chosen.clip_high < 0 or chosen.beta < 0 or self.sampler_bound <= 0:
            raise UserError("clip_low, clip_high and beta must be at least 0, and sampler_bound above 0")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise UserError(f"dual_clip is {self.dual_clip}; it must be above 1, or null")

    @property
    def chosen(self) -> Any:
        """The options that hold."""
        preset, own = PRESETS[self.preset], self.options
        given = {f.name: value for f in fields(own) if (value := getattr(own, f.name)) is not None}
        return Options(**{**vars(preset), **given})


class Grpo(Policy):
    """The clipped loss of answers, by their advantage in the group, and the divergence from the start."""

    def __init__(self, model: Any, config: GrpoConfig) -> None:
        options = config.chosen
        super().__init__(model, config.rollouts.temperature, options.normalizer, config.rollouts.max_tokens)
        self.config, self.options = config, options
        if options.beta and next(adapters(model), None) is None:
            self.frozen = (copy.deepcopy(model).eval().requires_grad_(False),)

    def extend(self, rows: Batch, fleet: Fleet) -> Mapping[str, Tensor]:
        rewards_GN = rows["rewards_B"].view(-1, self.config.rollouts.answers)
        gains_B1 = advantages(rewards_GN, self.options.advantage).view(-1, 1)
        found = {"advantages_BT": gains_B1.expand_as(rows["ids_BT"])}
        if self.config.rollouts.updates > 1:  # later steps move away from what spoke
            found["old_BT"] = measured(fleet, "policy", rows, self.config.train)
        if self.options.beta:
            found["reference_BT"] = measured(fleet, "reference", rows, self.config.train)
        return found

    def token_losses(self, new_BT: Tensor, mask_BT: Tensor, batch: Batch) -> Tensor:
        options, old_BT = self.options, batch.get("old_BT", new_BT.detach())
        ratios_BT = log_ratios(new_BT, old_BT, mask_BT, options.level)
        bounds = options.clip_low, options.clip_high, self.config.dual_clip
        losses_BT, clipped_BT = clipped_loss(ratios_BT, batch["advantages_BT"], *bounds)
        weights_BT = sampler_weights(old_BT, batch["sampled_BT"], mask_BT, self.config.sampler_bound)
        losses_BT = losses_BT * weights_BT
        tokens = float(mask_BT.sum())
        self.note(clipped=((clipped_BT & mask_BT).sum(), tokens))
        if options.beta:
            kl_BT = kl_divergence(new_BT, batch["reference_BT"], self.config.divergence)
            self.note(kl=((kl_BT.detach() * mask_BT).sum(), tokens))
            losses_BT = losses_BT + options.beta * kl_BT
        return losses_BT


def align_grpo(config: GrpoConfig) -> Artifact:
    """Train a model on its own answers, each compared with others to the same prompt; skipped when up to date, resumed
    when it was cut off, in the middle of a rollout too.
    """
    return practise(config, Grpo, "grpo")
