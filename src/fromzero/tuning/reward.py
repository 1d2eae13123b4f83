"""`fromzero align reward`: pairs of a better and a worse answer -> a model that scores answers.

The score is read off the token that ends the answer, by a head on the model (Stiennon et al. 2020; Ouyang et al. 2022).
P pairs of a batch, B answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fromzero.artifact import Artifact
from fromzero.dataset.formats import Messages
from fromzero.device import DeviceName, pick_device
from fromzero.errors import UserError
from fromzero.evaluation.tasks import Task
from fromzero.inference.opening import check_model
from fromzero.interop.huggingface import load_any
from fromzero.model import Transformer
from fromzero.model.heads import HeadConfig, HeadedTransformer
from fromzero.parallel import Fleet, World
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.training.metrics import read_metrics
from fromzero.training.objective import added_loss
from fromzero.training.settings import TrainConfig
from fromzero.tuning.base import TuningConfig, finish, fit, open_base, tune_together
from fromzero.tuning.grading import end_of_turn
from fromzero.tuning.outcome import Change, Curve, Outcome, write_outcome
from fromzero.tuning.preferring import Pairs
from fromzero.tuning.sequences import Encoder, RowLoader, Rows, load_rows, measured


@dataclass(frozen=True, kw_only=True)
class RewardConfig(TuningConfig):
    """What scores are learned from."""

    preferences: Path
    """File of pairs ("prompt", "chosen", "rejected", or another usual form; "margin" too, by which scores should differ
    at least), or a folder with train.* and validation.*."""
    centring: float = 0.01
    """Weight of the squared sum of a pair's scores, which keeps scores around 0 (Eisenstein et al. 2023); 0: none."""
    truncate: Literal["left", "right"] = "left"
    """Where what is longer than the context is cut: the beginning of the prompt, or the end of the answer."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=200, batch_size=32, learning_rate=1e-4, warmup_steps=20, weight_decay=0.01, final_learning_rate=0.0
        )
    )
    """How it is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.retain:
            raise UserError("retain is for models that write text; leave it out")
        if self.parallel.pipeline > 1 or self.parallel.context > 1:
            raise UserError("preferences are learned with parallel.pipeline and parallel.context of 1")


def reward_loss(scores_P2: Tensor, margin_P: Tensor | float = 0.0, centring: float = 0.0) -> Tensor:
    """-log sigma(r_c - r_r - margin) + centring (r_c + r_r)^2, (P,), of the scores of chosen and rejected answers."""
    gap_P = scores_P2[:, 0] - scores_P2[:, 1]
    return -F.logsigmoid(gap_P - margin_P) + centring * scores_P2.sum(1).square()


def scores(model: HeadedTransformer, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """The score of each sequence at the last token of its answer, (..., T) -> (...) in fp32; padding at the right."""
    ids, targets = ids_BT.flatten(0, -2), targets_BT.flatten(0, -2)
    ends_B = ((targets >= 0) * torch.arange(1, ids.shape[1] + 1, device=ids.device)).amax(1)  # target t is token t + 1
    x_BD = model.hidden(ids)[torch.arange(len(ids), device=ids.device), ends_B]
    assert model.classifier is not None
    return model.classifier(x_BD).float().view(ids_BT.shape[:-1])


class Ranking(Pairs):
    """Pairs whose better answer should have the higher score."""

    def forward(self, ids_BT: Tensor, targets_BT: Tensor, **beside: Tensor) -> Tensor:  # type: ignore[override]
        """Summed loss of the pairs."""
        scores_P2 = scores(self.model, ids_BT, targets_BT)
        gap_P = (scores_P2[:, 0] - scores_P2[:, 1]).detach()
        self.note(accuracy=((gap_P > 0).sum(), len(gap_P)), margin=(gap_P.sum(), len(gap_P)))
        losses_P = reward_loss(scores_P2, beside["margin_P"], self.config.centring)
        return losses_P.sum() + added_loss(self.model, len(losses_P))

    def held_out(self, model: Transformer, rows: Rows) -> dict[str, float]:
        """Loss, accuracy, and the mean of all scores."""
        scores_R2 = measured(model, rows, scores)
        loss = float(reward_loss(scores_R2, rows.beside["margin_P"], self.config.centring).mean())
        accuracy = float((scores_R2[:, 0] > scores_R2[:, 1]).float().mean())
        return {"validation_loss": loss, "preference_accuracy": accuracy, "mean_score": float(scores_R2.mean())}


def align_reward(config: RewardConfig) -> Artifact:
    """Bring the reward model up to date; resumed when it was cut off. Raises UserError."""
    return tune_together(config, {"preferences": config.preferences}, _align)


def _align(config: RewardConfig, folder: Path, world: World) -> Mapping[str, Any]:
    base = open_base(config, folder, world)
    headed = HeadedTransformer.on(base.model, HeadConfig(pooling="last", classes=1, bias=False), config.train.seed)
    headed.head.requires_grad_(False)  # no score depends on it
    encoder = Encoder(base.tokenizer, headed.config.context, config.truncate)
    train, held_out, _ = load_rows(encoder, config.preferences)
    objective = Ranking(headed, config)

    def look(model: Transformer, step: int) -> dict[str, Any]:
        return objective.held_out(model, held_out) if held_out.rows else {}

    def make_loader(fleet: Fleet) -> RowLoader:
        return RowLoader(train, config.train.batch_size, config.train.seed, fleet.data_rank, fleet.data_size)

    base = replace(base, model=headed)
    whole, figures = fit(config, base, objective, make_loader, look, folder, world)
    if whole is not None:
        before = next(line for line in read_metrics(folder / "run" / "metrics.jsonl") if line["kind"] == "look")
        name, key = "held-out pairs told apart", "preference_accuracy"
        changes = [Change(name, before[key], figures[key], "higher", len(held_out.rows), True)] if held_out.rows else []
        curves = [Curve("margin", "score of chosen less rejected"), *([Curve(key, name, "look")] if changes else [])]
        write_outcome(folder / "run", Outcome("reward", changes, curves, notes=encoder.notes()))
    return finish(whole, base, folder, figures, end_of_turn(base.tokenizer))


class RewardModel:
    """Scores answers. It is given texts, and encodes them by its own tokenizer and chat template, so whose they are
    does not matter.
    """

    def __init__(self, model: HeadedTransformer, tokenizer: Tokenizer) -> None:
        self.model, self.encoder = model, Encoder(tokenizer, model.config.context)

    @classmethod
    def open(cls, folder: Path, device: DeviceName = "auto") -> "RewardModel":
        """From a folder made by `align reward`. Raises UserError for any other model."""
        model = load_any(found := check_model(folder))
        if not isinstance(model, HeadedTransformer) or model.heads.classes != 1 or model.heads.per_token:
            raise UserError(f"{folder} is no reward model; make one with `fromzero align reward`")
        return cls(model.to(pick_device(device)).eval(), load_tokenizer(found))

    def score(self, prompts: Sequence[Messages], answers: Sequence[Messages]) -> list[float]:
        """The score of each answer; what is longer than the context loses its beginning."""
        rows = [(self.encoder(prompt, answer),) for prompt, answer in zip(prompts, answers, strict=True)]
        found: list[float] = measured(self.model, Rows(rows, {}), scores).flatten().tolist()
        return found

    def __call__(self, tasks: Sequence[Task], answers: Sequence[str]) -> list[float]:
        """The score of each answer to a task."""
        prompts = [[dict(message) for message in task.messages] for task in tasks]
        return self.score(prompts, [[{"role": "assistant", "content": answer}] for answer in answers])
