"""A model as a policy: the log-probabilities of tokens that it drew, and the loss of what came of them.

The loss here is that of REINFORCE; others replace `token_losses`. B answers, one a row, T tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fromzero.evaluation.tasks import Task
from fromzero.model import Transformer
from fromzero.model.adapters import without_adapters
from fromzero.model.linear_loss import IGNORE
from fromzero.parallel import Fleet
from fromzero.parallel.fleet import Batch
from fromzero.training.objective import Objective, added_loss
from fromzero.training.settings import TrainConfig
from fromzero.tuning.policy_losses import Normalizer, loss_count, token_weights

Rewards = Callable[[Sequence[Task], Sequence[str]], Sequence[float | None]]
"""(tasks, an answer to each) -> their rewards; None or NaN where there is none to give."""


class Policy(Objective):
    """What Rollouts deals, with `advantages_BT`, -> the summed loss of its answers' tokens."""

    def __init__(self, model: Any, temperature: float, normalizer: Normalizer, longest: int) -> None:
        """temperature: that of the rollouts. longest: tokens of an answer, for the normaliser `constant`."""
        super().__init__(model)
        self.temperature, self.normalizer, self.longest = temperature, normalizer, longest
        self.measuring: str | None = None
        """What a pass gives in place of a loss: log-probabilities of "policy", or of the "reference" model."""
        self.frozen: tuple[Transformer, ...] = ()
        """The reference model, where it is not this one without its adapters; no part of the objective."""
        self.rewards: Rewards | None = None
        """What answers are rewarded by; None: by what checks their tasks."""
        self.parts: dict[str, Any] = {}
        """What else of it a checkpoint keeps; see Trainer.parts."""

    def plain(self, whole: Any) -> Any:
        """The model that comes out of the one that was trained."""
        return whole

    def count(self, batch: Batch) -> float:
        """What the normaliser divides by."""
        return loss_count(batch["targets_BT"] != IGNORE, self.normalizer, self.longest)

    def forward(self, **batch: Tensor) -> Tensor:
        """The summed loss; log-probabilities (B, T) while measuring."""
        if self.measuring == "reference" and not self.frozen:
            with without_adapters(self.model):
                return self.logprobs(self.model, batch)
        if self.measuring:
            return self.logprobs(self.frozen[0] if self.measuring == "reference" else self.model, batch)
        mask_BT = batch["targets_BT"] != IGNORE
        new_BT = self.logprobs(self.model, batch)
        losses_BT = self.token_losses(new_BT, mask_BT, batch)
        self._note(new_BT, mask_BT, batch)
        return (losses_BT * token_weights(mask_BT, self.normalizer)).sum() + self._added(batch)

    def token_losses(self, new_BT: Tensor, mask_BT: Tensor, batch: Batch) -> Tensor:
        """-A log p of each token: more of what did better (Williams 1992, eq. 4)."""
        return -batch["advantages_BT"] * new_BT

    def extend(self, rows: Batch, fleet: Fleet) -> Mapping[str, Tensor]:
        """What a rollout's rows get beside what Rollouts says; called once for each, by all ranks.

        Here the advantage: the reward less the mean of all (a baseline, Williams 1992, section 4).
        """
        gains_B = (rows["rewards_B"] - rows["rewards_B"].nanmean()).nan_to_num(0.0)
        return {"advantages_BT": gains_B[:, None].expand_as(rows["ids_BT"])}

    def logprobs(self, model: Transformer, batch: Batch) -> Tensor:
        """log p of each target at the temperature, (B, T) in fp32, 0 where there is none; with gradients."""
        return self.chosen(model, model.hidden(batch["ids_BT"]), batch["targets_BT"])

    def chosen(self, model: Transformer, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """The same of hidden states."""
        mask_BT = targets_BT != IGNORE
        chosen_N = model.head.logprobs(x_BTD[mask_BT], model.head_weight, targets_BT[mask_BT], self.temperature)
        return torch.zeros_like(targets_BT, dtype=torch.float32).masked_scatter(mask_BT, chosen_N)

    def _added(self, batch: Batch) -> Tensor | float:
        """What mixtures of experts add, for each of what is counted."""
        return added_loss(self.model, self.count(batch))

    def _note(self, new_BT: Tensor, mask_BT: Tensor, batch: Batch) -> None:
        """Figures of the answers: entropy is estimated by -log p of what was drawn."""
        scores_B, answers, tokens = batch["scores_B"], len(mask_BT), float(mask_BT.sum())
        known = float((~scores_B.isnan()).sum())
        if self.rewards is None:  # a learned reward of 1 means nothing
            self.note(right=((scores_B >= 1).sum(), known))
        self.note(
            reward=(scores_B.nansum(), known),
            reward_deviation=(batch["deviations_B"].sum(), answers),
            unscored=(answers - known, answers),
            truncated=((~batch["whole_B"]).sum(), answers),
            answer_tokens=(batch["lengths_B"].sum(), answers),
            entropy=(-new_BT.detach().sum(), tokens),
            sampler_gap=(((new_BT.detach() - batch["sampled_BT"]).abs() * mask_BT).sum(), tokens),
        )


@torch.no_grad()
def measured(fleet: Fleet, what: str, rows: Batch, train: TrainConfig) -> Tensor:
    """Log-probabilities (B, T) of all rows of a rollout by "policy" or "reference", or what else the objective measures
    of rows; ranks share the work, and all get all of it. Never more rows at once than train.
    """
    objective: Any = fleet.objective
    learning, objective.measuring = objective.training, what
    objective.eval()
    at_once = train.micro_batch_size or train.batch_size // fleet.data_size
    own = {name: tensor[fleet.data_rank :: fleet.data_size] for name, tensor in rows.items()}
    found = torch.cat([fleet.roots[0](**micro).cpu() for micro in fleet.micro_batches(own, at_once)])
    objective.measuring = None
    objective.train(learning)
    whole_BT = torch.empty(len(rows["targets_BT"]), *found.shape[1:])
    for rank, part_BT in fleet.world.gather((fleet.data_rank, found)):
        whole_BT[rank :: fleet.data_size] = part_BT
    return whole_BT
