"""The classifier: its words, its kernels beside plain code, what it learns, and what is measured."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.corpus.classifier import Classifier, ClassifierConfig, measure, split, train_classifier
from fromzero.corpus.document import LOW_SCORE
from fromzero.errors import UserError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, the CAT.", ["the", "cat", "the", "cat"]),
        ("我是cat。", ["我", "是", "cat"]),
        ("naïve Größe x1", ["naïve", "größe", "x1"]),
        ("한국어 мир 42", ["한국어", "мир", "42"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("👍\U00020000 \n\t", ["\U00020000"]),
        ("", []),
    ],
)
def test_what_a_word_is(text: str, words: list[str]) -> None:
    assert split(text).tolist() == [split(word).item() for word in words]


def test_different_words_have_different_hashes() -> None:
    words = [f"w{n}" for n in range(5000)] + [chr(0x4E00 + n) for n in range(5000)]
    assert len({split(word).item() for word in words}) == len(words)


MASK = 2**64 - 1


def places(tokens: list[int], order: int, bits: int) -> list[int]:
    """The weights of all n-grams in plain Python."""
    found = []
    for start in range(len(tokens)):
        key = 0
        for token in tokens[start : start + order]:
            key = (key ^ token ^ token >> 32) * 0xC2B2AE3D27D4EB4F & MASK
            found.append(((key ^ key >> 32) * 0x9E3779B97F4A7C15 & MASK) >> (64 - bits))
    return found


@settings(max_examples=50, deadline=None)
@given(st.text("ab c我是，。", max_size=30), st.integers(1, 4))
def test_score_as_in_plain_python(text: str, order: int) -> None:
    weights = np.random.default_rng(0).normal(size=1 << 10).astype(np.float32)
    tokens = split(text).tolist()
    total = sum(float(weights[place]) for place in places(tokens, order, 10))
    expected = 1 / (1 + math.exp(-(0.3 + total / math.sqrt(max(1, order * len(tokens))))))
    assert Classifier(weights, 0.3, order).score(text) == pytest.approx(expected, rel=1e-5)


def test_a_step_goes_towards_the_target() -> None:
    classifier = Classifier(np.zeros(1 << 12, np.float32), 0.0, 2)
    squares = np.full((1 << 12) + 1, 1e-6, np.float32)
    for target in (1.0, 0.0):
        before = classifier.score("a good text")
        classifier.learn(split("a good text"), squares, target, 0.1)
        assert (classifier.score("a good text") > before) is (target == 1)


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


def made_up(kind: str, count: int, seed: int) -> list[str]:
    """English and Chinese, half each; the two kinds have words in common and differ in others."""
    chance = random.Random(seed)
    english = ["the", "a", "of", "and", "in", "we", "is", "it", "that", "was"] + (
        ["proof", "theorem", "because", "number"] if kind == "good" else ["buy", "now", "click", "cheap"]
    )
    chinese = list("的一是在我有和这") + (list("证明定理因为数") if kind == "good" else list("买点击便宜优惠价"))
    return [
        " ".join(chance.choices(english, k=40)) if n % 2 else "".join(chance.choices(chinese, k=60))
        for n in range(count)
    ]


def test_it_learns_and_is_kept(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.jsonl", made_up("good", 300, 0)), tmp_path / "bad.txt"
    bad.write_text("\n".join(made_up("bad", 400, 1)), encoding="utf-8")
    pool = write(tmp_path / "pool.jsonl", made_up("good", 50, 2) + made_up("bad", 150, 3))
    config = ClassifierConfig((good,), (bad,), tmp_path / "out", (pool,), keep=0.25, bits=14, held_out=0.2)
    made = train_classifier(config)
    assert made.summary["auc"] > 0.98
    assert made.summary["accuracy"] > 0.95
    assert 0 <= made.summary["auc_error"] < 0.02
    classifier = Classifier.load(made.path)
    for seed in (5, 6):
        assert np.mean([classifier.score(text) for text in made_up("good", 40, seed)]) > 0.8
        assert np.mean([classifier.score(text) for text in made_up("bad", 40, seed)]) < 0.2
    kept = [classifier.judge(json.loads(line)["text"]) is None for line in pool.read_text("utf-8").splitlines()]
    assert np.mean(kept) == pytest.approx(0.25, abs=0.01)
    assert str(classifier.judge(made_up("bad", 1, 9)[0])).startswith(f"{LOW_SCORE}: below ")
    assert 0 <= classifier.score("") <= 1
    again = train_classifier(ClassifierConfig((good,), (bad,), tmp_path / "again", (pool,), 0.25, 0.2, bits=14))
    assert again.digest == made.digest


def test_auc_and_its_error() -> None:
    assert measure([0.1, 0.2], [0.8, 0.9])["auc"] == 1
    assert measure([0.8, 0.9], [0.1, 0.2])["auc"] == 0
    assert measure([0.5] * 5, [0.5] * 7)["auc"] == 0.5
    chance = np.random.default_rng(0)
    low, high = chance.normal(0.3, 0.2, 200), chance.normal(0.6, 0.2, 300)
    found = measure(low.tolist(), high.tolist())
    assert found["auc"] == pytest.approx(np.mean(low[:, None] < high), abs=1e-9)
    assert found["accuracy"] == pytest.approx((np.mean(low < 0.5) + np.mean(high >= 0.5)) / 2)
    samples = [
        measure(chance.normal(0.3, 0.2, 200).tolist(), chance.normal(0.6, 0.2, 300).tolist()) for _ in range(200)
    ]
    for name in ("auc", "accuracy"):
        assert found[f"{name}_error"] == pytest.approx(np.std([sample[name] for sample in samples]), rel=0.25)


def test_what_is_refused(tmp_path: Path) -> None:
    good, broken = write(tmp_path / "good.jsonl", ["one", "two"]), tmp_path / "broken.jsonl"
    for line in ('{"text": ', '{"content": "x"}', "[]", "\udcff"):
        broken.write_text('{"text": "right"}\n' + line + "\n", encoding="utf-8", errors="surrogateescape")
        with pytest.raises(UserError, match=r"broken.jsonl, line 2 can't be read"):
            train_classifier(ClassifierConfig((good,), (broken,), tmp_path / "out"))
    for path, message in ((tmp_path / "no.jsonl", "examples come from"), (tmp_path, "not a corpus made")):
        with pytest.raises(UserError, match=message):
            train_classifier(ClassifierConfig((path,), (good,), tmp_path / "out2"))
    with pytest.raises(UserError, match="too few examples"):
        train_classifier(ClassifierConfig((good,), (good,), tmp_path / "out3"))
    with pytest.raises(UserError, match="keep is 1"):
        ClassifierConfig((), (), tmp_path, keep=1)
    with pytest.raises(UserError, match="bits is 40"):
        ClassifierConfig((), (), tmp_path, bits=40)
