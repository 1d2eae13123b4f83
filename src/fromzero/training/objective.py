"""What is minimised: the next token's cross-entropy, over the targets that count."""

from torch import Tensor

from fromzero.model import Transformer, functions
from fromzero.model.linear_loss import IGNORE, linear_cross_entropy


def next_token_loss(model: Transformer, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Sum of -log p(target) in nats over targets that are not -100 (fp32 scalar).

    A sum, not a mean: the trainer divides by the count of the whole batch, so the size of a micro-batch and how the
    counted targets are spread over them change nothing. In training, mixtures of experts add to it, for each target.
    """
    x_ND, targets_N = model.hidden(ids_BT).flatten(0, 1), targets_BT.flatten()
    if model.head.plain:
        loss = linear_cross_entropy(x_ND, model.head_weight, targets_N)
    else:
        loss = functions.cross_entropy(model.head(x_ND, model.head_weight), targets_N).sum()
    added = model.auxiliary_losses()
    return loss + sum(added.values()) * counted(targets_BT) if added else loss


def counted(targets_BT: Tensor) -> int:
    """Targets that carry loss."""
    return int((targets_BT != IGNORE).sum())
