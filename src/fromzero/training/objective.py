"""What is minimised: an objective holds the model, prepares batches and returns the summed loss of a micro-batch.

A sum, not a mean: who trains divides by the targets of the whole batch, so the size of a micro-batch, the number of
ranks and how the counted targets are spread over them change nothing.
"""

from typing import Any

from torch import Tensor, nn

from fromzero.model import Transformer, functions
from fromzero.model.linear_loss import IGNORE, linear_cross_entropy
from fromzero.parallel.fleet import Batch


class Objective(nn.Module):
    """A model and what it learns from a batch."""

    def __init__(self, model: Any) -> None:
        """model: a Transformer, or an EncoderDecoder for objectives that take one."""
        super().__init__()
        self.model = model

    def prepare(self, ids_BT: Tensor, targets_BT: Tensor, step: int) -> Batch:
        """What `forward` takes, of a batch of the loader, on the CPU; draws at random by the seed and the step."""
        return {"ids_BT": ids_BT, "targets_BT": targets_BT}

    def forward(self, **batch: Tensor) -> Tensor:
        """Sum of -log p(target) in nats over targets that are not -100, fp32 scalar, with what the model adds."""
        return self.loss(self.hidden(**batch), **batch) + added_loss(self.model, batch["targets_BT"])

    def hidden(self, **batch: Tensor) -> Tensor:
        """Hidden states (B, T, D) of a micro-batch; the stages of a pipeline share this part."""
        raise NotImplementedError

    def loss(self, x_BTD: Tensor, **batch: Tensor) -> Tensor:
        """The summed loss of the hidden states, without what the model adds; the last stage alone runs it."""
        return head_loss(self.model, x_BTD, batch["targets_BT"])


class NextToken(Objective):
    """Each token from those before it (GPT)."""

    def hidden(self, **batch: Tensor) -> Tensor:
        return self.model.hidden(**{name: tensor for name, tensor in batch.items() if name != "targets_BT"})


def next_token_loss(model: Transformer, ids_BT: Tensor, targets_BT: Tensor, **marks: Any) -> Tensor:
    """Sum of -log p(target) in nats over targets that are not -100 (fp32 scalar); marks: see Transformer.forward.

    In training, mixtures of experts add to it, for each target.
    """
    return head_loss(model, model.hidden(ids_BT, **marks), targets_BT) + added_loss(model, targets_BT)


def head_loss(model: Transformer, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    """The same of hidden states."""
    x_ND, targets_N = x_BTD.flatten(0, 1), targets_BT.flatten()
    if model.head.plain:
        return linear_cross_entropy(x_ND, model.head_weight, targets_N)
    return functions.cross_entropy(model.head(x_ND, model.head_weight), targets_N).sum()


def added_loss(model: Transformer, targets_BT: Tensor) -> Tensor | float:
    """What mixtures of experts add in training, for each target."""
    added = model.auxiliary_losses()
    return sum(added.values()) * counted(targets_BT) if added else 0.0


def counted(targets_BT: Tensor) -> int:
    """Targets that carry loss."""
    return int((targets_BT != IGNORE).sum())
