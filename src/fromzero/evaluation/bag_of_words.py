"""What a classifier has to beat: logistic regression on the words of a text and pairs of neighbours, whatever their
order beyond that (n-grams, tf-idf: Salton and Buckley 1988; a strong baseline: Wang and Manning 2012).

It is given a fair chance: how strongly weights are held back is chosen on a part of the texts it learns from.
"""

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = (1e2, 1e3, 1e4, 1e5, 1e6)
"""Inverse strengths of regularisation that are tried: the loss is |W|^2 / 2 + strength x mean cross-entropy."""
HELD_OUT = 5
"""One in so many texts is for that choice."""
ITERATIONS = 100

# A word is letters and digits; of scripts without blanks between words, each character is one.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")


class BagOfWords:
    """Probabilities of classes from the words of texts."""

    def __init__(self, texts: Sequence[str], classes_N: Tensor, count: int, weights_C: Tensor | None = None) -> None:
        """Learn from texts and their classes, of `count`. weights_C: of a text of each class; None: they are equal."""
        documents = Counter(term for text in texts for term in set(_terms(text)))
        self.terms = {t: i for i, t in enumerate(sorted(t for t, n in documents.items() if n > 1))}
        known = torch.tensor([documents[term] for term in self.terms], dtype=torch.float32)
        self.idf = torch.log((1 + len(texts)) / (1 + known)) + 1
        weights_C = torch.ones(count) if weights_C is None else weights_C
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
        cut = len(order) // HELD_OUT
        rows_NF = self._features(texts)
        check_NF, learn_NF = (rows_NF.index_select(0, part).coalesce() for part in (order[:cut], order[cut:]))
        self.strength = self._choose(learn_NF, classes_N[order[cut:]], check_NF, classes_N[order[:cut]], weights_C)
        self.weight_FC = _fit(rows_NF, classes_N, weights_C, self.strength)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Probabilities (N, C)."""
        return (self._features(texts) @ self.weight_FC).softmax(1)

    def _features(self, texts: Sequence[str]) -> Tensor:
        """tf-idf (N, F), sparse: 1 + log of counts, scaled to length 1 for each text; the last feature is the bias."""
        places: list[tuple[int, int]] = []
        values = []
        for number, text in enumerate(texts):
            counts = Counter(self.terms[term] for term in _terms(text) if term in self.terms)
            row = torch.tensor([1 + math.log(n) for n in counts.values()]) * self.idf[list(counts)]
            places += [(number, term) for term in (*counts, len(self.terms))]
            values += [F.normalize(row, dim=0), torch.ones(1)]
        size = (len(texts), len(self.terms) + 1)
        return torch.sparse_coo_tensor(
            torch.tensor(places).T, torch.cat(values), size, check_invariants=False
        ).coalesce()

    @staticmethod
    def _choose(learn_NF: Tensor, learn_N: Tensor, check_NF: Tensor, check_N: Tensor, weights_C: Tensor) -> float:
        """The strength with the most right answers, weighted, on texts that were not learned from."""
        best = (-1.0, 0.0)
        for strength in STRENGTHS:
            said_N = (check_NF @ _fit(learn_NF, learn_N, weights_C, strength)).argmax(1)
            best = max(best, (float(weights_C[check_N][said_N == check_N].sum()), -strength))
        return -best[1]


def _fit(rows_NF: Tensor, classes_N: Tensor, weights_C: Tensor, strength: float) -> Tensor:
    """The weights (F, C) with the least loss, by L-BFGS; the gradient is X^T (p - y) (Bishop 2006, eq. 4.109)."""
    with warnings.catch_warnings():  # of torch, that these are in beta; products with them are 8 times as fast
        warnings.simplefilter("ignore", UserWarning)
        rows, turned = rows_NF.to_sparse_csr(), rows_NF.t().coalesce().to_sparse_csr()
    weights_N = weights_C[classes_N] / weights_C[classes_N].sum()
    weight_FC = torch.zeros(rows_NF.shape[1], len(weights_C))
    held_F1 = torch.ones(len(weight_FC), 1) / strength
    held_F1[-1] = 0  # the bias is free
    optimizer = torch.optim.LBFGS([weight_FC], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> float:
        logits_NC = rows @ weight_FC
        wrong_N = F.cross_entropy(logits_NC, classes_N, reduction="none")
        miss_NC = (logits_NC.softmax(1) - F.one_hot(classes_N, len(weights_C))) * weights_N[:, None]
        weight_FC.grad = turned @ miss_NC + held_F1 * weight_FC
        return float((wrong_N * weights_N).sum() + (held_F1 * weight_FC.square()).sum() / 2)

    optimizer.step(loss)
    return weight_FC


def _terms(text: str) -> Iterator[str]:
    """Words in lower case, and pairs of neighbours."""
    words = _WORD.findall(text.lower())
    yield from words
    yield from (f"{one} {two}" for one, two in pairwise(words))
