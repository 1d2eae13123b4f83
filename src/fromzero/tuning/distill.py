"""`fromzero finetune distill`: a small model learns a larger one's probabilities for what the assistant says.

All of it is as in chat tuning but the loss (Hinton et al. 2015): see model/distill_loss. Where only the answers of a
teacher can be had, `fromzero finetune answers` asks for them and chat tuning learns these (Kim and Rush 2016).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.inference.opening import check_model
from fromzero.interop import load_model
from fromzero.model import Transformer
from fromzero.model.distill_loss import Divergence, distillation_loss
from fromzero.model.linear_loss import IGNORE
from fromzero.tokenizer import load_tokenizer
from fromzero.tuning.base import Base, tune_together
from fromzero.tuning.chat import ChatConfig, tune
from fromzero.tuning.noise import NoisyNextToken


@dataclass(frozen=True, kw_only=True)
class DistillConfig(ChatConfig):
    """Who learns from whom."""

    teacher: Path
    """The model to learn from, of the same tokenizer: a folder, a GGUF file, or the name of a downloaded one; it may be
    in few bits."""
    temperature: float = 2.0
    """Both models' logits are divided by it, so that what is unlikely counts more."""
    alpha: float = 0.9
    """Share of the teacher in the loss; the rest is cross-entropy with the conversations' own tokens."""
    divergence: Divergence = "forward"
    """How far the student is from the teacher: forward, KL(teacher || student), which covers all that it may say;
    reverse, KL(student || teacher), which keeps to what it says most; jsd, between them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf") or not 0 <= self.alpha <= 1:
            raise UserError(f"temperature ({self.temperature}) must be above 0, alpha ({self.alpha}) from 0 to 1")
        if (self.parallel.tensor, self.parallel.pipeline, self.parallel.context) != (1, 1, 1):
            raise UserError("the teacher is whole on each device, and reads whole rows: use parallel.shard alone")


def finetune_distill(config: DistillConfig) -> Artifact:
    """Train a model on another's probabilities; skipped when up to date, resumed when cut off. Raises UserError."""
    inputs = {"conversations": config.conversations, "teacher": check_model(config.teacher)}
    return tune_together(config, inputs, partial(tune, make_objective=make_objective, task="distill"))


def make_objective(config: DistillConfig, base: Base) -> "Distillation":
    """With the teacher, in the dtype that the student computes in."""
    folder, dtype, context = check_model(config.teacher), base.model.compute_dtype, base.model.config.context
    if load_tokenizer(folder).tokens != base.tokenizer.tokens:
        raise UserError(f"{config.teacher} has another tokenizer than {config.model}; a teacher must have the same")
    teacher = load_model(folder, dtype, dtype).to(base.model.device).eval().requires_grad_(False)
    if teacher.config.context < min(config.context or context, context):
        raise UserError(f"the teacher's context is {teacher.config.context}; set context to that, or less")
    return Distillation(config, base.model, teacher)


class Distillation(NoisyNextToken):
    """The teacher's probabilities at each target, and the target itself."""

    learns_ahead = False

    def __init__(self, config: DistillConfig, model: Any, teacher: Transformer) -> None:
        super().__init__(model, config.noise, config.train.seed)
        self._teacher = [teacher]  # in a list: no part of what is trained
        self._settings: Mapping[str, Any] = {"alpha": config.alpha, "temperature": config.temperature}
        self._kind: Divergence = config.divergence

    def loss(self, x_BTD: Tensor, **batch: Tensor) -> Tensor:
        marks: dict[str, Any] = {n: batch[n] for n in ("documents_BT", "positions_BT") if n in batch}
        loss, sums = self.apart(self.model, x_BTD, batch["ids_BT"], batch["targets_BT"], **marks)
        count = self.count(batch)
        self.note(cross_entropy=(sums[0], count), divergence=(sums[1], count), agreement=(sums[2], count))
        return loss

    def apart(
        self, model: Any, x_BTD: Tensor, ids_BT: Tensor, targets_BT: Tensor, **marks: Any
    ) -> tuple[Tensor, Tensor]:
        """See distillation_loss; of the hidden states of a model and of all targets."""
        counts_BT, teacher = targets_BT != IGNORE, self._teacher[0]
        with torch.no_grad():
            taught_ND = teacher.hidden(ids_BT, **marks)[counts_BT]

        def teach(rows_N: Tensor) -> Tensor:
            with torch.no_grad():
                return teacher.head(taught_ND[rows_N], teacher.head_weight).float()

        rows = x_BTD[counts_BT], model.head_weight, targets_BT[counts_BT]
        return distillation_loss(model.head, *rows, teach, **self._settings, kind=self._kind)

    @torch.inference_mode()
    def measure(self, model: Any, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """How far it is from the teacher on held-out conversations, and how often both think the same the likeliest."""
        sums, count = torch.zeros(3), 0.0
        for ids_BT, targets_BT in batches:
            sums += self.apart(model, model.hidden(ids_BT), ids_BT, targets_BT)[1].cpu()
            count += self.count({"targets_BT": targets_BT})
        return {"divergence": float(sums[1]) / max(1, count), "agreement": float(sums[2]) / max(1, count)}
