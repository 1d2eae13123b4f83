"""What is learned from preferences: the loss of rows of two answers, and how well held-out ones are told apart.

P rows of a batch, R of all, see sequences; P2 and R2: chosen and rejected.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fromzero.model import Transformer
from fromzero.parallel import World
from fromzero.parallel.fleet import Batch
from fromzero.training.objective import Objective, added_loss
from fromzero.tuning.preference_losses import kl_estimate, kto_loss, preference_loss
from fromzero.tuning.sequences import Rows, answer_logprobs, measured


class Pairs(Objective):
    """Pairs of a better and a worse answer, with `reference_P2` beside them."""

    def __init__(self, model: Any, config: Any) -> None:
        """config: a PreferenceConfig."""
        super().__init__(model)
        self.config = config

    def count(self, batch: Batch) -> float:
        """Rows."""
        return len(batch["targets_BT"])

    def forward(self, ids_BT: Tensor, targets_BT: Tensor, **beside: Tensor) -> Tensor:  # type: ignore[override]
        """Summed loss of the pairs."""
        policy_P2 = answer_logprobs(self.model, ids_BT, targets_BT)
        loss_P, rewards_P2 = self.weigh(policy_P2, beside["reference_P2"], (targets_BT >= 0).sum(-1))
        gap_P = rewards_P2[:, 0] - rewards_P2[:, 1]
        figures = {"chosen_reward": rewards_P2[:, 0], "rejected_reward": rewards_P2[:, 1], "accuracy": gap_P > 0}
        figures |= {"margin": gap_P, "chosen_logprob": policy_P2[:, 0].detach()}
        self.note(**{name: (value_P.sum(), len(value_P)) for name, value_P in figures.items()})
        return loss_P.sum() + added_loss(self.model, len(loss_P))

    def weigh(self, policy_P2: Tensor, reference_P2: Tensor, tokens_P2: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (P,) and implied rewards (P, 2)."""
        names = ("beta", "label_smoothing", "margin", "per_token")
        settings = {name: getattr(self.config, name) for name in names}
        return preference_loss(self.config.loss, policy_P2, reference_P2, tokens_P2, **settings)

    def held_out(self, model: Transformer, rows: Rows) -> dict[str, float]:
        """The loss, and the shares of pairs whose chosen answer has the higher reward, and is the likelier one."""
        policy_R2, reference_R2 = measured(model, rows), rows.beside["reference_P2"]
        tokens_R2 = torch.tensor([[int((side.targets_T >= 0).sum()) for side in row] for row in rows.rows])
        loss_R, rewards_R2 = self.weigh(policy_R2, reference_R2, tokens_R2)
        shares = {"preference_accuracy": _share(*rewards_R2.T), "likelier": _share(*policy_R2.T)}
        return {"validation_loss": float(loss_R.mean()), **shares}


class Judgements(Pairs):
    """Answers that are good or bad (`good_P` beside them), each with one to another prompt for the KL estimate: KTO."""

    def complete(self, batch: Batch, step: int) -> Batch:
        """With the estimate from the whole batch of all ranks, as the model is, without gradient."""
        size, total = len(batch["targets_BT"]), torch.zeros(1, dtype=torch.float64)
        for start in range(0, size, rows := self.config.train.micro_batch_size or size):
            part = {name: tensor[start : start + rows].to(self.model.device) for name, tensor in batch.items()}
            with torch.no_grad():
                total += float(self(**part))
        if self.ranks > 1:
            dist.all_reduce(total)
            total /= dist.get_world_size()
        return {**batch, "kl_P": torch.full((size,), kl_estimate(float(total), size))}

    def forward(self, ids_BT: Tensor, targets_BT: Tensor, **beside: Tensor) -> Tensor:  # type: ignore[override]
        """Summed loss; before there is `kl_P`, the summed log-ratio of the answers to other prompts."""
        side, good_P = 0 if "kl_P" in beside else 1, beside["good_P"]
        policy_P = answer_logprobs(self.model, ids_BT[:, side], targets_BT[:, side])
        ratio_P = policy_P - beside["reference_P2"][:, side]
        if side == 1:
            return ratio_P.sum()
        self.note(kl=(beside["kl_P"].sum(), len(good_P)))
        for name, some_P in (("good_reward", good_P), ("bad_reward", ~good_P)):
            self.note(**{name: (self.config.beta * ratio_P.detach()[some_P].sum(), float(some_P.sum()))})
        return self.judge(ratio_P, good_P, beside["kl_P"]).sum() + added_loss(self.model, len(good_P))

    def judge(self, ratio_P: Tensor, good_P: Tensor, kl: Tensor | float) -> Tensor:
        """Losses (P,)."""
        return kto_loss(ratio_P, good_P, kl, self.config.beta, (self.config.good_weight, self.config.bad_weight))

    def held_out(self, model: Transformer, rows: Rows) -> dict[str, float]:
        """The loss, and of all pairs of a good and a bad answer, the share in which the good one's reward is higher."""
        ratio_R2, good_R = measured(model, rows) - rows.beside["reference_P2"], rows.beside["good_P"]
        loss_R = self.judge(ratio_R2[:, 0], good_R, kl_estimate(float(ratio_R2[:, 1].sum()), len(good_R)))
        good, bad = ratio_R2[good_R, 0], ratio_R2[~good_R, 0]
        share = {"preference_accuracy": _share(good[:, None], bad[None])} if len(good) and len(bad) else {}
        return {"validation_loss": float(loss_R.mean()), **share}


def _share(better: Tensor, worse: Tensor) -> float:
    return float((better > worse).float().mean())


def reference_logprobs(model: Transformer, rows: Rows, file: Path, world: World) -> Tensor:
    """Log-probabilities (R, 2) under the weights that training starts from: worked out once, and kept in `file`.

    All ranks call it with all rows, and each works on a part. A file that is of other rows is made anew.
    """
    digest = hashlib.sha256()
    for side in (side for row in rows.rows for side in row):
        digest.update(side.ids_T.tobytes() + side.targets_T.tobytes())
    found_R2: Tensor | None = world.share(_kept(file, digest.hexdigest()) if world.first else None)
    if found_R2 is None:
        found_R2 = torch.empty(len(rows.rows), 2)
        own = measured(model, Rows(rows.rows[world.rank :: world.size], {}))
        for rank, part_R2 in enumerate(world.gather(own)):
            found_R2[rank :: world.size] = part_R2
        if world.first:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"logprobs": found_R2}, part := file.with_suffix(".part"), {"rows": digest.hexdigest()})
            part.replace(file)
    return found_R2


def _kept(file: Path, digest: str) -> Tensor | None:
    if not file.exists():
        return None
    with safe_open(file, "pt") as opened:
        return opened.get_tensor("logprobs") if opened.metadata()["rows"] == digest else None
