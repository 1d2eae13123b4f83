"""How good a classifier is: right answers, also for rare classes, and whether its probabilities can be believed.

Everything follows from the probabilities (N texts, C classes) and the true classes (N).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Of a classifier on texts whose class is known."""

    accuracy: float
    """Share of the texts whose likeliest class is the true one."""
    balanced_accuracy: float
    """Mean over classes of the share of their texts that was found."""
    macro_f1: float
    """Mean over classes of F1, 2 right / (2 right + wrongly said + missed)."""
    loss: float
    """Mean of -log p(true class), nats."""
    calibration_error: float
    """How far confidence is from the share that is right; see `calibration_error`."""
    interval: tuple[float, float]
    """Of the accuracy; see `wilson`."""
    confusion: list[list[int]]
    """Texts by what is true (rows) and what was said (columns)."""
    bins: list[dict[str, float]]
    """See `reliability`."""


def score(probabilities_NC: Tensor, true_N: Tensor, bins: int = 10) -> Scores:
    """All of it, for at least one text."""
    counts_CC = confusion(probabilities_NC.argmax(1), true_N, probabilities_NC.shape[1])
    likely_N = probabilities_NC.double().gather(1, true_N[:, None]).squeeze(1)
    found = reliability(probabilities_NC, true_N, bins)
    return Scores(
        accuracy(counts_CC),
        balanced_accuracy(counts_CC),
        macro_f1(counts_CC),
        float(-likely_N.clamp(min=1e-38).log().mean()),
        calibration_error(found),
        wilson(int(counts_CC.trace()), int(counts_CC.sum())),
        counts_CC.tolist(),
        found,
    )


def confusion(said_N: Tensor, true_N: Tensor, classes: int) -> Tensor:
    """How many texts of each true class (row) were said to be of each class (column), (C, C) int64."""
    return torch.bincount(true_N * classes + said_N, minlength=classes * classes).view(classes, classes)


def accuracy(counts_CC: Tensor) -> float:
    """Share on the diagonal."""
    return float(counts_CC.trace() / counts_CC.sum())


def balanced_accuracy(counts_CC: Tensor) -> float:
    """Mean recall of the classes that have texts."""
    real_C = counts_CC.sum(1) > 0
    return float((counts_CC.diagonal()[real_C].double() / counts_CC.sum(1)[real_C]).mean())


def macro_f1(counts_CC: Tensor) -> float:
    """Mean F1 of the classes that have texts or were said."""
    either_C = counts_CC.sum(0) + counts_CC.sum(1)
    return float((2 * counts_CC.diagonal()[either_C > 0].double() / either_C[either_C > 0]).mean())


def wilson(right: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share, 95 % by default (Wilson 1927); also for few texts and shares near 1."""
    share, spread = right / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / count / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def reliability(probabilities_NC: Tensor, true_N: Tensor, bins: int = 10) -> list[dict[str, float]]:
    """Texts by the probability of the class that was said, in equal bins from 0 to 1, each without its lower end:
    its mean, the share that is right, and the count. Empty bins are left out.
    """
    confidence_N, said_N = probabilities_NC.double().max(1)
    right_N = (said_N == true_N).double()
    bin_N = ((confidence_N * bins).ceil().long() - 1).clamp(0, bins - 1)
    found = []
    for number in bin_N.unique().tolist():
        here = bin_N == number
        means = {"confidence": float(confidence_N[here].mean()), "accuracy": float(right_N[here].mean())}
        found.append({**means, "count": int(here.sum())})
    return found


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Mean over texts of the distance between confidence and accuracy of their bin (ECE, Guo et al. 2017, eq. 3)."""
    total = sum(each["count"] for each in bins)
    return sum(each["count"] * abs(each["confidence"] - each["accuracy"]) for each in bins) / total
