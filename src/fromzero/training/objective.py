"""What is minimised: an objective holds the model, prepares batches and returns the summed loss of a micro-batch.

A sum, not a mean: who trains divides by what the objective counts in the whole batch (targets, pairs, answers), so the
size of a micro-batch, the number of ranks and how the counted targets are spread over them change nothing.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fromzero.model import Transformer
from fromzero.model.linear_loss import IGNORE
from fromzero.parallel.fleet import Batch


class Objective(nn.Module):
    """A model and what it learns from a batch."""

    learns_ahead = False
    """Whether what predicts further tokens is learned too."""
    whole_rows = True
    """Whether rows fill the context and all of the model learns from each token, as FLOPs are counted."""

    def __init__(self, model: Any, begins: int | None = None) -> None:
        """model: a Transformer, or an EncoderDecoder for objectives that take one.

        begins: the id that begins each document, where tokens are to see their own only.
        """
        super().__init__()
        self.model, self.begins = model, begins
        self.rank, self.ranks = 0, 1
        """Whose rows of a batch are prepared: rank r of n has rows r, r + n, ... of it."""
        self.noted: dict[str, tuple[float, float]] = {}
        """Sum and count of what was noted in this step, by name."""

    def prepare(self, ids_BT: Tensor, targets_BT: Tensor, step: int) -> Batch:
        """What `forward` takes, of a batch of the loader, on the CPU; draws at random by the seed and the step."""
        return {"ids_BT": ids_BT, "targets_BT": targets_BT, **self.marks(ids_BT, targets_BT)}

    def complete(self, batch: Batch, step: int) -> Batch:
        """A batch that a loader made whole, on the CPU, and what else `forward` takes; all ranks call it."""
        return batch

    def count(self, batch: Batch) -> float:
        """What the summed loss of this rank's rows is divided by, over all ranks together; 0: nothing is learned."""
        return counted(batch["targets_BT"])

    def note(self, **sums: tuple[Tensor | float, float]) -> None:
        """Add sums and counts to the figures of this training step, whose means over micro-batches and ranks are
        logged; each forward pass must note the same names.
        """
        for name, (total, count) in sums.items() if self.training else ():
            before = self.noted.get(name, (0.0, 0.0))
            self.noted[name] = before[0] + float(total), before[1] + count

    def marks(self, ids_BT: Tensor, targets_BT: Tensor) -> dict[str, Tensor]:
        """What else the model is told about the tokens of a batch of the loader."""
        return {} if self.begins is None else document_marks(ids_BT, targets_BT, self.begins)

    def forward(self, **batch: Tensor) -> Tensor:
        """Sum of -log p(target) in nats over targets that are not -100, fp32 scalar, with what the model adds."""
        return self.loss(self.hidden(**batch), **batch) + added_loss(self.model, counted(batch["targets_BT"]))

    def hidden(self, **batch: Tensor) -> Tensor:
        """Hidden states (B, T, D) of a micro-batch; the stages of a pipeline share this part."""
        return self.model.hidden(**{name: tensor for name, tensor in batch.items() if name != "targets_BT"})

    def loss(self, x_BTD: Tensor, **batch: Tensor) -> Tensor:
        """The summed loss of the hidden states, without what the model adds; the last stage alone runs it."""
        return head_loss(self.model, x_BTD, batch["targets_BT"])


class NextToken(Objective):
    """Each token from those before it (GPT), and further ones where the model predicts them (DeepSeek-V3)."""

    learns_ahead = True

    def __init__(self, model: Any, begins: int | None = None, ahead_weight: float = 0.3) -> None:
        super().__init__(model, begins)
        self.ahead_weight = ahead_weight

    def loss(self, x_BTD: Tensor, **batch: Tensor) -> Tensor:
        loss = super().loss(x_BTD, **batch)
        if not (self.training and self.model.config.predict_ahead):
            return loss
        return loss + self.ahead_weight * ahead_loss(self.model, x_BTD, **batch)


def ahead_loss(model: Transformer, x_BTD: Tensor, ids_BT: Tensor, targets_BT: Tensor, **marks: Tensor) -> Tensor:
    """The mean over further tokens of their summed losses (DeepSeek-V3, 2024, eq. 24 and 25, before the weight).

    Where tokens see their own document only, none is predicted from another's.
    """
    losses = []
    documents_BT = marks.get("documents_BT")
    for steps, ahead_BTD in enumerate(model.hidden_ahead(ids_BT, x_BTD, **marks), 1):
        further_BT = targets_BT[:, steps:]
        if documents_BT is not None:
            same_BT = documents_BT[:, steps:] == documents_BT[:, :-steps]
            further_BT = further_BT.masked_fill(~same_BT, IGNORE)
        losses.append(head_loss(model, ahead_BTD, further_BT))
    return torch.stack(losses).mean()


def document_marks(ids_BT: Tensor, targets_BT: Tensor, begins: int) -> dict[str, Tensor]:
    """The number of the document, within its row, that each token is of, and its place there.

    A document begins with the id `begins`; the rest of one that was cut, where an id is not what came before it was to
    predict. Padding, which has no targets, is one document.
    """
    starts_BT = ids_BT == begins
    starts_BT[:, 1:] |= ids_BT[:, 1:] != targets_BT[:, :-1]
    starts_BT[:, 1:] &= (targets_BT[:, 1:] != IGNORE) | (targets_BT[:, :-1] != IGNORE)
    starts_BT[:, 0] = True
    places_T = torch.arange(ids_BT.shape[1])
    firsts_BT = torch.where(starts_BT, places_T, 0).cummax(1).values
    return {"documents_BT": starts_BT.cumsum(1), "positions_BT": places_T - firsts_BT}


def next_token_loss(model: Transformer, ids_BT: Tensor, targets_BT: Tensor, **marks: Any) -> Tensor:
    """Sum of -log p(target) in nats over targets that are not -100 (fp32 scalar); marks: see Transformer.forward.

    In training, mixtures of experts add to it, for each target.
    """
    return head_loss(model, model.hidden(ids_BT, **marks), targets_BT) + added_loss(model, counted(targets_BT))


def head_loss(model: Transformer, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    """The same of hidden states."""
    return model.head.loss(x_BTD.flatten(0, 1), model.head_weight, targets_BT.flatten())


def added_loss(model: Transformer, count: float) -> Tensor | float:
    """What mixtures of experts add in training, for each of what is counted."""
    added = model.auxiliary_losses()
    return sum(added.values()) * count if added else 0.0


def counted(targets_BT: Tensor) -> int:
    """Targets that carry loss."""
    return int((targets_BT != IGNORE).sum())
