"""Scores of classifiers against values worked out by hand, and the bag of words that they are held against."""

import math

import pytest
import torch

from fromzero.evaluation.bag_of_words import BagOfWords
from fromzero.evaluation.classification import (
    accuracy,
    balanced_accuracy,
    calibration_error,
    confusion,
    macro_f1,
    reliability,
    score,
    wilson,
)

# Of class 0: 3 right, 1 said to be 1. Of class 1: 1 right, 1 said to be 0. Nothing is or is said to be of class 2.
TRUE = torch.tensor([0, 0, 0, 0, 1, 1])
SAID = torch.tensor([0, 0, 1, 0, 1, 0])


def test_confusion_has_what_is_true_in_rows() -> None:
    assert confusion(SAID, TRUE, 3).tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_scores_by_hand() -> None:
    counts = confusion(SAID, TRUE, 3)
    assert accuracy(counts) == pytest.approx(4 / 6)
    assert balanced_accuracy(counts) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert macro_f1(counts) == pytest.approx((2 * 3 / 8 + 2 * 1 / 4) / 2)  # F1 is 2 right / (true + said)
    said_only = confusion(torch.tensor([0, 2]), torch.tensor([0, 0]), 3)  # class 2 is said and never true
    assert macro_f1(said_only) == pytest.approx((2 / 3 + 0) / 2)
    assert balanced_accuracy(said_only) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(82, 164, 0.424, 0.576), (0, 164, 0.0, 0.0229), (10, 10, 0.722, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_wilson_intervals_as_published(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-4)


def test_calibration_by_hand() -> None:
    sure = torch.tensor([0.95, 0.95, 0.65, 0.60, 1.0, 0.5], dtype=torch.float64)
    probabilities = torch.stack([sure, 1 - sure], 1)
    bins = reliability(probabilities, torch.tensor([0, 1, 0, 0, 0, 1]))
    assert [each["count"] for each in bins] == [1, 1, 1, 3]  # 0.5; 0.6 ends its bin; 0.65; 0.95, 0.95, 1
    assert bins[-1]["accuracy"] == pytest.approx(2 / 3)
    assert bins[-1]["confidence"] == pytest.approx(2.9 / 3)
    by_hand = (abs(0.5 - 0) + abs(0.6 - 1) + abs(0.65 - 1) + 3 * abs(2.9 / 3 - 2 / 3)) / 6
    assert calibration_error(bins) == pytest.approx(by_hand, abs=1e-6)


def test_all_of_it_at_once() -> None:
    probabilities = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    found = score(probabilities, torch.tensor([0, 1, 1]))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.confusion == [[1, 0], [1, 1]]
    assert found.loss == pytest.approx(-(math.log(0.8) + math.log(0.6) + math.log(0.1)) / 3, abs=1e-6)
    assert found.interval == wilson(2, 3)


def texts(count: int, seed: int) -> tuple[list[str], torch.Tensor]:
    """Class 1 says 'not good' or 'bad', class 0 'good' or 'not bad': single words do not tell."""
    random = torch.Generator().manual_seed(seed)
    said = torch.randint(4, (count,), generator=random)
    filler = [["the", "a", "so", "very"][i] for i in torch.randint(4, (count,), generator=random)]
    phrases = ["it is good", "it is not bad", "it is not good", "it is bad"]
    return [f"{word} {phrases[i]}" for i, word in zip(said.tolist(), filler, strict=True)], (said > 1).long()


def test_a_bag_of_words_learns_pairs_of_words() -> None:
    learn, check = texts(200, 0), texts(50, 1)
    bag = BagOfWords(*learn, 2)
    assert "not bad" in bag.terms
    assert (bag(check[0]).argmax(1) == check[1]).all()
    torch.testing.assert_close(bag(check[0]).sum(1), torch.ones(50))
    assert bag(["nothing that was seen"]).isfinite().all()


def test_its_weights_are_where_the_gradient_is_zero() -> None:
    learn = texts(80, 2)
    weights = torch.tensor([1.0, 3.0])
    bag = BagOfWords(*learn, 2, weights)
    rows, weight = bag._features(learn[0]).to_dense(), bag.weight_FC.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(rows @ weight, learn[1], weights)
    (loss + weight[:-1].square().sum() / 2 / bag.strength).backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-3
    torch.testing.assert_close(rows[:, :-1].norm(dim=1), torch.ones(80))  # tf-idf of length 1, and the bias beside it


def test_characters_are_words_where_no_blanks_part_them() -> None:
    classes = torch.tensor([0, 1] * 10)
    bag = BagOfWords(["这本书很好", "这本书不好"] * 10, classes, 2)
    assert "不 好" in bag.terms
    assert bag(["很好", "不好"]).argmax(1).tolist() == [0, 1]
