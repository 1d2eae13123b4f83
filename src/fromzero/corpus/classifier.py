"""A classifier of text quality: logistic regression over hashed n-grams of words, trained on examples.

Words are those of `corpus.shingles`: an ideograph is one by itself, so Chinese is seen by n-grams of characters. As in
fastText (Joulin et al. 2016), n-grams share a fixed number of weights by their hash, and all count alike. Their sum is
divided by the square root of their number, so that long texts are not surer than they should be.
"""

import dataclasses
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from fromzero.artifact import Artifact, build, open_artifact
from fromzero.corpus.document import LOW_SCORE
from fromzero.corpus.examples import digest_examples, held_out, read_examples
from fromzero.corpus.shingles import words_of
from fromzero.errors import UserError
from fromzero.files import write_json

VERSION = 1
WEIGHTS, SETTINGS = "weights.safetensors", "classifier.json"


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """How examples become a classifier."""

    positive: tuple[Path, ...]
    """Corpora, .jsonl files (`text`) or .txt files (a text a line) of what to keep."""
    negative: tuple[Path, ...]
    """The same of what to drop, best a random sample of what will be filtered."""
    output: Path
    """Folder for the classifier."""
    pool: tuple[Path, ...] = ()
    """Documents like those that will be filtered, from which the threshold is taken. Empty: held-out negatives."""
    keep: float = 0.1
    """Share of the pool that the threshold keeps (DCLM: 0.1)."""
    held_out: float = 0.1
    """Share of the examples that is not trained on, to measure."""
    characters: int = 10_000
    """Examples are cut after so many characters."""
    order: int = 2
    """Longest n-gram, in words."""
    bits: int = 20
    """2**bits weights of 4 bytes. A million suffice for some 100,000 examples; with more, take 22."""
    epochs: int = 5
    """Passes over the examples."""
    learning_rate: float = 0.2
    """Of AdaGrad."""
    seed: int = 0
    """Order of the examples."""

    def __post_init__(self) -> None:
        for name, low, high in (("order", 1, 8), ("bits", 8, 28), ("epochs", 1, 1000), ("characters", 1, 10**9)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)}; it takes a whole number from {low} to {high}")
        for name in ("keep", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it takes a share between 0 and 1")


class Classifier:
    """Weights and what is needed to use them."""

    def __init__(self, weights: NDArray[np.float32], bias: float, order: int, threshold: float = 0.5) -> None:
        self.weights, self.bias, self.order, self.threshold = weights, bias, order, threshold
        self.bits = len(weights).bit_length() - 1

    @staticmethod
    def load(path: Path) -> "Classifier":
        """A finished classifier. Raises UserError when it is none, or damaged."""
        found = open_artifact(path, "classifier")
        made, weights = json.loads((found.path / SETTINGS).read_bytes()), load_file(found.path / WEIGHTS)["weights"]
        if weights.dtype != np.float32 or len(weights) < 2:
            raise UserError(f"{path} is damaged: its weights are none; train it again")
        return Classifier(weights, made["bias"], made["order"], made["threshold"])

    def score(self, text: str) -> float:
        """The probability, 0 to 1, that the text is like the positive examples. `threshold` keeps the wanted share."""
        from fromzero.kernels.ngrams import total_weight

        tokens = split(text)
        total = total_weight(tokens, len(tokens), self.order, self.bits, self.weights)
        return _sigmoid(self.bias + total * self._scale(len(tokens)))

    def judge(self, text: str) -> str | None:
        """LOW_SCORE and the score below the threshold, None to keep."""
        score = self.score(text)
        return f"{LOW_SCORE}: below {self.threshold:.4g}, found {score:.4g}" if score < self.threshold else None

    def learn(self, tokens: NDArray[np.uint64], squares: NDArray[np.float32], target: float, rate: float) -> None:
        """A step towards the target, 0 or 1. The bias has the last of the squares."""
        from fromzero.kernels.ngrams import descend, total_weight

        size, scale = len(tokens), self._scale(len(tokens))
        total = total_weight(tokens, size, self.order, self.bits, self.weights)
        slope = _sigmoid(self.bias + total * scale) - target
        descend(tokens, size, self.order, self.bits, self.weights, squares, slope * scale, rate)
        squares[-1] += slope * slope
        self.bias -= rate * slope / math.sqrt(squares[-1])

    def _scale(self, tokens: int) -> float:
        return 1 / math.sqrt(max(1, self.order * tokens))


def split(text: str) -> NDArray[np.uint64]:
    """Hashes of the words of a text."""
    return words_of(text.encode("utf-8", "replace"))[0]


def train_classifier(config: ClassifierConfig) -> Artifact:
    """Train on positive and negative examples; a 'classifier' artifact, with accuracy and ROC AUC in its summary."""
    inputs = {name: digest_examples(getattr(config, name)) for name in ("positive", "negative", "pool")}
    where = ("positive", "negative", "pool", "output")
    return build(config.output, "classifier", config, inputs, lambda f: _make(f, config), version=VERSION, ignore=where)


def _make(folder: Path, config: ClassifierConfig) -> Mapping[str, Any]:
    sides = [read_examples(paths, config.characters) for paths in (config.negative, config.positive)]
    train = [[text for text in side if not held_out(text, config.held_out)] for side in sides]
    test = [[text for text in side if held_out(text, config.held_out)] for side in sides]
    if min(map(len, train + test)) < 2:
        raise UserError("too few examples: training and measuring need two of each side; add some, or raise held_out")
    classifier = _train(train, config)
    low, high = ([classifier.score(text) for text in side] for side in test)
    pool = [classifier.score(text) for text in read_examples(config.pool, config.characters)] if config.pool else low
    classifier.threshold = float(np.quantile(pool, 1 - config.keep))
    save_file({"weights": classifier.weights}, folder / WEIGHTS)
    write_json(folder / SETTINGS, {name: getattr(classifier, name) for name in ("bias", "order", "threshold")})
    measured = measure(low, high) | {"kept_positives": float(np.mean(np.array(high) >= classifier.threshold))}
    return measured | {"threshold": classifier.threshold, "trained_on": sum(map(len, train)), "pool": len(pool)}


def _train(sides: Sequence[Sequence[str]], config: ClassifierConfig) -> Classifier:
    classifier = Classifier(np.zeros(1 << config.bits, np.float32), 0.0, config.order)
    squares = np.full((1 << config.bits) + 1, 1e-6, np.float32)
    # The smaller side is seen more often, so that both count alike and 0.5 is the middle.
    most = max(map(len, sides))
    examples = [(texts[i % len(texts)], float(side)) for side, texts in enumerate(sides) for i in range(most)]
    chance = random.Random(config.seed)
    for epoch in range(config.epochs):
        chance.shuffle(examples)
        for text, target in examples:
            classifier.learn(split(text), squares, target, config.learning_rate * (1 - epoch / config.epochs))
    return classifier


def measure(low: Sequence[float], high: Sequence[float]) -> dict[str, float]:
    """Accuracy at 0.5 (the mean over both sides) and ROC AUC of scores, with standard errors.

    The AUC is the chance that a positive example scores above a negative one, equal scores counting half; its error
    after Hanley and McNeil, 1982.
    """
    negatives, positives = np.sort(low), np.array(high)
    m, n = len(negatives), len(positives)
    below, right = np.mean(negatives < 0.5), np.mean(positives >= 0.5)
    wins = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    auc = float(np.sum(wins)) / (2 * m * n)
    better, worse = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    variance = (auc * (1 - auc) + (n - 1) * better + (m - 1) * worse) / (m * n)
    return {
        "accuracy": float((below + right) / 2),
        "accuracy_error": math.sqrt(below * (1 - below) / m + right * (1 - right) / n) / 2,
        "auc": auc,
        "auc_error": math.sqrt(max(0.0, variance)),
        "held_out": m + n,
    }


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, value))))
