"""Probabilities that add up, a plain reference of the smoothing, and what the perplexity tells apart."""

import collections
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fromzero.artifact import build
from fromzero.corpus.document import HIGH_PERPLEXITY, category
from fromzero.corpus.examples import read_examples
from fromzero.corpus.ngram_model import (
    SETTINGS,
    WEIGHTS,
    NgramConfig,
    NgramModel,
    estimate,
    train_ngrams,
)
from fromzero.errors import UserError
from fromzero.files import write_json


def surprise(model: NgramModel, text: str) -> float:
    return math.log(model.perplexity(text)) * len(text)


def probability(model: NgramModel, context: str, character: str) -> float:
    before = math.exp(-surprise(model, context)) if context else 1.0
    return math.exp(-surprise(model, context + character)) / before


@settings(max_examples=60, deadline=None)
@given(st.text("ab 我是", min_size=1, max_size=60), st.text("ab 我是z", max_size=6), st.integers(1, 6))
def test_probabilities_add_up_to_one(text: str, context: str, order: int) -> None:
    model = estimate(text, order)
    alphabet = [*{*text, "\n"}, "\ue000"]  # all that was seen, and one for all that was not
    assert sum(probability(model, context, c) for c in alphabet) == pytest.approx(1, abs=1e-4)


def reference(text: str, order: int, given_: str, discounts: list[float]) -> float:
    """Kneser-Ney as the book says, without pruning, for full contexts."""
    padded = "\n" * (order + 1) + text
    full = collections.Counter(padded[i : i + order] for i in range(len(padded) - order + 1))
    counts = {order: full}
    for size in range(order - 1, 0, -1):
        counts[size] = collections.Counter(gram[1:] for gram in counts[size + 1])
    below = 1 / (len(counts[1]) + 1)
    for size in range(1, order + 1):
        gram = given_[-size:]
        siblings = {g: n for g, n in counts[size].items() if g[:-1] == gram[:-1]}
        if not siblings:
            break
        total = sum(siblings.values())
        left = sum(discounts[min(n, 3)] for n in siblings.values()) / total
        below = max(0.0, siblings.get(gram, 0) - discounts[min(siblings.get(gram, 0), 3)]) / total + left * below
    return below


def test_as_the_plain_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    discounts = [0.0, 0.5, 0.8, 1.1]
    monkeypatch.setattr("fromzero.corpus.ngram_model._discounts", lambda counts: np.array(discounts))
    monkeypatch.setattr("fromzero.corpus.ngram_model._PRUNED", 99)
    text = "the cat sat on the mat; the rat sat. 猫坐在垫子上，猫坐。"
    for order in (1, 2, 3, 5):
        model = estimate(text, order)
        for context, character in (("the c", "a"), ("the r", "t"), ("zzzzz", "a"), ("，猫坐", "在"), ("t sat", "字")):
            expected = reference(text, order, context + character, discounts)
            assert probability(model, context, character) == pytest.approx(expected, rel=1e-4)


def test_better_with_longer_contexts_and_worse_when_garbled(english: str, chinese: str) -> None:
    for text in (english * 4, chinese * 4):
        model = estimate(text, 5)
        garbled = "".join(random.Random(0).sample(text, len(text)))
        assert model.perplexity(text) < 0.3 * estimate(text, 1).perplexity(text)
        assert model.perplexity(garbled) > 5 * model.perplexity(text)
        assert model.perplexity("@#" * 50) > model.perplexity(garbled)
        assert model.perplexity("") == math.inf


def test_a_model_is_kept_and_sorts_into_buckets(tmp_path: Path, english: str) -> None:
    chance = random.Random(0)
    words = english.split()
    texts = [" ".join(chance.choices(words, k=40)) for _ in range(200)]
    odd = ["".join(chance.sample(text, len(text))) for text in texts[:100]]
    for name, lines in (("clean", texts), ("pool", texts + odd)):
        rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    config = NgramConfig(
        (tmp_path / "clean.jsonl",), tmp_path / "out", (tmp_path / "pool.jsonl",), (0.3, 0.668), order=4
    )
    made = train_ngrams(config)
    model = NgramModel.load(made.path)
    assert made.summary["low"] < made.summary["high"]
    assert {model.judge(text) for text in texts} == {None}
    assert {category(str(model.judge(text))) for text in odd} == {HIGH_PERPLEXITY}
    assert model.judge(texts[0]) is None
    again = train_ngrams(NgramConfig(config.texts, tmp_path / "again", config.pool, config.cutoffs, order=4))
    assert again.digest == made.digest


@pytest.mark.parametrize(
    ("keys", "values", "order"),
    [([1, 2], [0, 0], 5), ([0, 1, 2], [0, 0, 0], 5), ([0, 1], [0], 5), ([0, 1], [0, 0], 10**9), ([], [], 5)],
)
def test_a_table_that_lies_is_refused(tmp_path: Path, keys: list[int], values: list[float], order: int) -> None:
    def make(folder: Path) -> dict[str, str]:
        table = {"keys": np.array(keys, np.uint64), "values": np.array(values, np.float32)}
        save_file(table, folder / WEIGHTS)
        write_json(folder / SETTINGS, {"order": order, "unseen": -1.0, "cutoffs": [1.0, 2.0]})
        return {}

    build(tmp_path / "out", "ngrams", NgramConfig((), tmp_path), {}, make)
    with pytest.raises(UserError, match="damaged"):
        NgramModel.load(tmp_path / "out")


def test_no_more_is_read_than_wanted(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("".join(f"text {n}\n\n" for n in range(99)) + "text 0\n", encoding="utf-8")
    texts = [f"text {n}" for n in range(99)]
    assert read_examples([tmp_path / "many.txt"], 100) == texts
    assert read_examples([tmp_path / "many.txt"], 4, 4) == ["text"]
    assert read_examples([tmp_path / "many.txt"], 100, 60) == texts[:10]


def test_what_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("only one text\n", encoding="utf-8")
    with pytest.raises(UserError, match="too few"):
        train_ngrams(NgramConfig((tmp_path / "one.txt",), tmp_path / "out"))
    with pytest.raises(UserError, match="order is 0"):
        NgramConfig((), tmp_path, order=0)
    with pytest.raises(UserError, match="lower one first"):
        NgramConfig((), tmp_path, cutoffs=(0.6, 0.3))
