"""What is minimised: the next token's cross-entropy, over the targets that count."""

from torch import Tensor

from fromzero.model import Transformer
from fromzero.model.linear_loss import IGNORE, linear_cross_entropy


def next_token_loss(model: Transformer, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Sum of -log p(target) in nats over targets that are not -100 (fp32 scalar).

    A sum, not a mean: the trainer divides by the count of the whole batch, so the size of a micro-batch and how the
    counted targets are spread over them change nothing.
    """
    x_BTD = model.hidden(ids_BT)
    return linear_cross_entropy(x_BTD.flatten(0, 1), model.head_weight, targets_BT.flatten())


def counted(targets_BT: Tensor) -> int:
    """Targets that carry loss."""
    return int((targets_BT != IGNORE).sum())
