"""Screens and repeats in a whole build: each drops what it should, and the counts add up."""

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from fromzero.artifact import Artifact
from fromzero.corpus import CorpusConfig, build_corpus, read_corpus
from fromzero.corpus.classifier import ClassifierConfig, train_classifier
from fromzero.corpus.decontaminate import Decontamination
from fromzero.corpus.lists import Lists
from fromzero.corpus.ngram_model import NgramConfig, train_ngrams
from fromzero.errors import UserError
from tests.corpus.conftest import CHINESE, ENGLISH, shuffled
from tests.corpus.test_pipeline import check_counts

Settings = Callable[..., CorpusConfig]
SPAM = "you can buy these cheap pills now and you will win the money that we have for all of our friends this week"
QUESTION = "A farmer has seventeen sheep and sells all but nine of them on Tuesday; how many does the farmer have left?"


def written(folder: Path, documents: Mapping[str, Mapping[str, str]]) -> None:
    """Documents as JSON lines, a file each."""
    folder.mkdir(exist_ok=True)
    for name, fields in documents.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(fields, ensure_ascii=False) + "\n", encoding="utf-8")


def dropped(corpus: Artifact) -> dict[str, str]:
    """Name -> reason of what is rejected, when the counts add up."""
    check_counts(corpus)
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(corpus.path / "rejected").to_pylist()
    return {Path(row["source"]).stem: row["reason"] for row in rows}


@pytest.fixture
def filled(tmp_path: Path) -> None:
    english = {f"en{n}": {"text": f"Part {n}. {shuffled(ENGLISH, 80, n)}"} for n in range(3)}
    chinese = {f"zh{n}": {"text": f"第{n}篇。{shuffled(CHINESE, 150, n)}"} for n in range(2)}
    written(tmp_path / "in", english | chinese)


@pytest.mark.usefixtures("filled")
def test_only_named_languages(settings: Settings) -> None:
    corpus = build_corpus(settings(keep_languages=("zh",)))
    assert dropped(corpus) == dict.fromkeys(("en0", "en1", "en2"), "other language: en")


@pytest.mark.usefixtures("filled")
def test_lists(settings: Settings, tmp_path: Path) -> None:
    for name, url in (("listed", "https://www.Bad.example/a"), ("fine", "https://notbad.example")):
        written(tmp_path / "in", {name: {"text": f"{name}: {shuffled(ENGLISH, 90, len(name))}", "url": url}})
    written(tmp_path / "in", {"rude": {"text": f"瓜娃子 {shuffled(CHINESE, 150, 9)}"}})
    (tmp_path / "domains").write_text("bad.example\n")
    (tmp_path / "words").write_text("瓜娃子\n", encoding="utf-8")
    lists = Lists((tmp_path / "domains",), words={"any": tmp_path / "words"})
    corpus = build_corpus(settings(lists=lists))
    assert dropped(corpus) == {"listed": "domain on a list", "rude": "words on a list"}
    (tmp_path / "domains").write_text("other.example\n")
    again = build_corpus(settings(lists=lists))
    assert dropped(again) == {"rude": "words on a list"}  # another list is another corpus
    with pytest.raises(UserError, match="gone can't be read"):
        build_corpus(settings(lists=Lists((tmp_path / "gone",))))


@pytest.mark.usefixtures("filled")
def test_models_by_language(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("\n".join(f"Part {n}. {shuffled(ENGLISH, 60, n)}" for n in range(60)))
    (tmp_path / "bad.txt").write_text("\n".join(shuffled(SPAM, 60, n) for n in range(60)))
    examples = ((tmp_path / "good.txt",), (tmp_path / "bad.txt",))
    made = train_classifier(ClassifierConfig(*examples, tmp_path / "classifier", keep=0.01, held_out=0.3, bits=12))
    model = train_ngrams(NgramConfig(examples[0], tmp_path / "ngrams", pool=examples[1], cutoffs=(0, 0.5), order=3))
    written(
        tmp_path / "in", {"spam": {"text": shuffled(SPAM, 90, 99)}, "odd": {"text": shuffled(ENGLISH[::-1], 60, 4)}}
    )
    found = dropped(build_corpus(settings(classifiers={"en": made.path})))
    assert found["spam"].startswith("low score of the classifier: below ")
    assert not {"en0", "en1", "en2", "zh0", "zh1"} & found.keys()
    found = dropped(build_corpus(settings(ngrams={"any": model.path})))
    assert found["odd"].startswith("high perplexity: above ")
    assert {"zh0", "zh1"} <= found.keys()  # the model has seen none
    with pytest.raises(UserError, match="is a ngrams, not a classifier"):
        build_corpus(settings(classifiers={"en": model.path}))


@pytest.mark.usefixtures("filled")
def test_evaluation_items_are_dropped_and_listed(settings: Settings, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "set.jsonl.gz", "wt") as file:
        file.write(json.dumps({"question": QUESTION, "choices": ["nine", "eight"], "id": 7}) + "\n\n")
    (tmp_path / "other.txt").write_text("What is it?\n")
    written(tmp_path / "in", {"leak": {"text": f"{shuffled(ENGLISH, 50, 1)} {QUESTION} {shuffled(ENGLISH, 50, 2)}"}})
    words = QUESTION.split()
    written(tmp_path / "in", {"touch": {"text": f"{shuffled(ENGLISH, 60, 3)} {' '.join(words[:13])}, we heard."}})
    sets = {"sheep": tmp_path / "set.jsonl.gz", "short": tmp_path / "other.txt"}
    corpus = build_corpus(settings(decontaminate=Decontamination(sets)))
    found = dropped(corpus)
    assert found.keys() == {"leak"}
    assert found["leak"].startswith("holds an evaluation item: item 0 of sheep, share ")
    assert corpus.summary["decontamination"] == {
        "sheep": {"items": 1, "unchecked": 0, "contaminated": 1, "documents": 1},
        "short": {"items": 1, "unchecked": 1, "contaminated": 0, "documents": 0},
    }
    matches = [json.loads(line) for line in (corpus.path / "matches.jsonl").read_text("utf-8").splitlines()]
    assert [(match["contaminated"], match["span"]) for match in matches] == [
        (True, QUESTION.removesuffix("?")),
        (False, " ".join(words[:13])),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "evaluation sets are .jsonl files"),
        ("a.jsonl", b'{"a": "b"}\n{', "a.jsonl, line 2 can't be read"),
        ("a.txt.gz", b"\x1f\x8b no", "a.txt.gz, line 0 can't be read"),
        ("a.txt", b"\xff\xff", "can't be read"),
    ],
)
@pytest.mark.usefixtures("filled")
def test_sets_that_are_none(settings: Settings, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        build_corpus(settings(decontaminate=Decontamination({"x": tmp_path / name})))


@pytest.mark.parametrize(("unit", "joint"), [("paragraph", "\n\n"), ("line", "\n"), ("passage", " ")])
def test_repeats_are_cut_out(settings: Settings, tmp_path: Path, unit: str, joint: str) -> None:
    shared = f"Subscribe to our letter, {shuffled(ENGLISH, 40, 99)}"
    own = [f"Story {n}: {shuffled(ENGLISH, 60, n)}" for n in range(4)]
    texts = {f"d{n}": {"text": f"{text}{joint}{shared}"} for n, text in enumerate(own)}
    written(tmp_path / "in", texts | {"only": {"text": f"{shared}{joint}Bye."}})
    plain = build_corpus(settings(output=tmp_path / "plain"))
    corpus = build_corpus(settings(repeats=(unit,)))
    check_counts(corpus)
    found = [d.text for side in ("train", "validation") for d in read_corpus(corpus.path, side)]
    assert sum(shared in text for text in found) == 1
    assert [sum(text[:-9] in other for other in found) for text in own] == [1] * 4  # ends may repeat
    gone = {row["reason"]: row for row in corpus.summary["funnel"]}["repeated passages"]
    assert gone["documents"] == 0
    assert gone["bytes"] >= 3 * len(shared)
    assert corpus.summary["bytes"]["read"] == plain.summary["bytes"]["read"]
    assert len({d.id for side in ("train", "validation") for d in read_corpus(corpus.path, side)}) == len(found)
