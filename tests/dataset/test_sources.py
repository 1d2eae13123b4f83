"""The same records from every kind of file; what is wrong is told with its place; splits share no question."""

import contextlib
import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from fromzero.dataset import sources
from fromzero.dataset.conversations import ConversationsConfig, pack_conversations
from fromzero.dataset.formats import Conversation, Labelled
from fromzero.dataset.sources import (
    Tally,
    bring,
    find_splits,
    read_conversations,
    read_judged,
    read_labelled,
    read_preferences,
)
from fromzero.dataset.splits import fingerprint, load_splits, read_splits
from fromzero.errors import UserError

RECORDS = [
    {"text": 'He said "no", and\nleft; 从零', "label": "spam"},
    {"text": "a\tb", "label": "ham"},
    {"text": " ", "label": "ham"},
    {"text": "plain", "label": "ham"},
]
LABELLED = [Labelled(r["text"], r["label"]) for r in RECORDS if r["text"].strip()]


def lines(*records: Any) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write(folder: Path, kind: str) -> Path:
    """The records as a file of that kind."""
    path = folder / f"records.{kind.split(' ')[0]}"
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    elif path.suffix == ".csv":
        mark = kind.split(" ")[1]
        cells = [[f'"{cell}"' for cell in (r["text"].replace('"', '""'), r["label"])] for r in RECORDS]
        path.write_text("\n".join(mark.join(row) for row in [["text", "label"], *cells]) + "\n", encoding="utf-8-sig")
    else:
        text = json.dumps(RECORDS, indent=1) if kind == "json list" else "\n" + lines(*RECORDS)
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "json list", "csv ,", "csv ;", "csv \t", "parquet"])
def test_the_same_records_from_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    path, tally = write(tmp_path, kind), Tally()
    found = list(read_labelled(path, tally))
    assert [record for record, _ in found] == LABELLED
    assert all(place.startswith(f"{path} ") for _, place in found)
    assert tally.dropped == {"empty text": 1}
    assert tally.bytes == path.stat().st_size


def test_places_count_from_one_as_editors_do(tmp_path: Path) -> None:
    found = {kind: [place.split(" ", 1)[1] for _, place in read_labelled(write(tmp_path, kind))]
             for kind in ("jsonl", "json list", "csv ,", "parquet")}  # fmt: skip
    assert found["jsonl"] == ["line 2", "line 3", "line 5"]  # the first one is empty
    assert found["csv ,"] == ["line 3", "line 4", "line 6"]  # where each ends
    assert found["json list"] == ["item 1", "item 2", "item 4"]
    assert found["parquet"] == ["row 1", "row 2", "row 4"]


def test_tables_without_header_and_quotes_that_are_letters(tmp_path: Path) -> None:
    path = tmp_path / "sms.tsv"
    path.write_text('ham\t"Ok lar\nspam\tWin "now"\r\n')
    read = functools.partial(read_labelled, columns=("label", "text"))
    assert [r for r, _ in read(path)] == [Labelled('"Ok lar', "ham"), Labelled('Win "now"', "spam")]
    with pytest.raises(UserError, match=r'sms\.tsv line 2: there is no "text" but ham, "Ok lar; name the keys, or'):
        list(read_labelled(path))


def test_folders_of_classes_and_of_splits(tmp_path: Path) -> None:
    for split, label, text in (("train", "pos", "fine"), ("train", "neg", "bad"), ("dev", "pos", "好")):
        (tmp_path / split / label).mkdir(parents=True)
        (tmp_path / split / label / "1.txt").write_bytes(text.encode("utf-16" if text == "好" else "utf-8"))
    (tmp_path / "train" / ".git").mkdir()
    (tmp_path / "train" / ".git" / "x").write_text("hidden")
    assert load_splits(tmp_path, read_labelled) == {
        "train": [Labelled("bad", "neg"), Labelled("fine", "pos")],
        "validation": [Labelled("好", "pos")],
    }
    assert [r for r, _ in read_labelled(tmp_path / "train", text="body")] == [
        Labelled("bad", "neg"),
        Labelled("fine", "pos"),
    ]
    (tmp_path / "train" / "neg" / "2.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(UserError, match=r"2\.txt is no text"):
        load_splits(tmp_path, read_labelled)


def test_splits_are_found_by_the_names_of_files(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "val.csv", "test.jsonl", "README.md"):
        (tmp_path / name).touch()
    (tmp_path / "manifest.json").write_text("{}")
    found = {split: [file.name for file in files] for split, files in find_splits(tmp_path).items()}
    assert found == {
        "train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        "validation": ["val.csv"],
    }
    (tmp_path / "any").mkdir()
    for name in ("b.jsonl", "a.csv", "notes.txt"):
        (tmp_path / "any" / name).touch()
    assert find_splits(tmp_path / "any") == {"train": [tmp_path / "any" / "a.csv", tmp_path / "any" / "b.jsonl"]}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither a file of records nor a folder"):
        find_splits(tmp_path / "empty")


def test_a_data_set_of_hugging_face_is_brought_as_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on this disk, which their library opens like one of theirs."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    local = tmp_path / "org" / "sentences"
    for name, labels in (("train", [1, 0, -1]), ("validation", [1])):
        rows = {"text": [f"{name} {i}" for i in range(len(labels))], "label": labels}
        made = datasets.Dataset.from_dict(rows, features=features)
        (local / "data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(local / "data" / f"{name}-00000-of-00001.parquet")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    folder = bring(Path("hf://org/sentences"))
    assert bring(Path("hf://org/sentences:default")).name != folder.name
    assert sorted(file.name for file in folder.iterdir()) == ["train.parquet", "validation.parquet"]
    tally = Tally()
    found = [(split, r.text, r.label) for split, r, _ in read_splits(folder, read_labelled, tally=tally)]
    assert found == [("train", "train 0", "yes"), ("train", "train 1", "no"), ("validation", "validation 0", "yes")]
    assert tally.dropped == {"empty label": 1}
    with pytest.raises(UserError, match="hf://org/sentences:other can't be had"):
        bring(Path("hf://org/sentences:other"))
    assert bring(folder) == folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": 1, "label": 1}\n', 'a.jsonl line 2: "text" is 1'),
        ("a.jsonl", b"[1]\n", 'a.jsonl line 1 is not an object with "messages"'),
        ("a.jsonl", b"\xff\n", "a.jsonl line 1 is not valid JSON in UTF-8"),
        ("a.json", b'[{"text": "a", "label": 1}, 3]', "a.json item 2 is not an object"),
        ("a.json", b"[{", "a.json is not valid JSON"),
        ("a.csv", b"text,label\na,b\na,b,c\n", r"a.csv line 3 has 3 cells, not 2 \(text, label\)"),
        ("a.csv", b"text,label\na\xff,b\n", "a.csv line 2 is not in UTF-8"),
        ("a.csv", b'text,label\n"' + b"a\n" * 60, "a.csv line .* is no row of a table"),
        ("a.parquet", b"PAR1 no", "a.parquet can't be read"),
        ("a.jsonl", b'{"text": "' + b"a" * 200 + b'"}\n', "a.jsonl line 1 is longer than 100 bytes"),
        ("a.xlsx", b"PK", r"a.xlsx has the suffix '.xlsx'; records are read from .jsonl, .json, .csv, .tsv, .parquet"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 100)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_labelled(tmp_path / name))


@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"]))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_records_or_an_error_of_the_user(tmp_path_factory: Any, content: bytes, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert all(isinstance(r, Labelled) for r, _ in read_labelled(path))


def test_readers_of_preferences_and_judgements(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        lines({"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": "b"})
    )
    tally = Tally()
    assert [record.chosen[0]["content"] for record, _ in read_preferences(path, tally)] == ["b"]
    assert tally.dropped == {"equal sides": 1}
    path.write_text(lines({"prompt": "a", "completion": "b", "label": False}))
    assert [record.good for record, _ in read_judged(path)] == [False]
    with pytest.raises(UserError, match=r'a\.jsonl line 1: the record should have "chosen" and "rejected"'):
        list(read_preferences(path))


def test_twins_are_never_on_both_sides(tmp_path: Path) -> None:
    """Texts that differ in case, blanks and punctuation are one question."""
    path = tmp_path / "a.jsonl"
    ask = [f"What is  {i} + {i % 7}?" for i in range(300)]
    twins = [f"what is {i} + {i % 7}" for i in range(300)]
    path.write_text(lines(*({"prompt": q, "completion": str(i)} for i, q in enumerate(ask + twins))))
    tally, sides = Tally(), {"train": set[int](), "validation": set[int]()}
    for split, record, _ in read_splits(path, read_conversations, 0.2, tally):
        sides[split].add(fingerprint(record.messages[0]["content"]))
    assert not sides["train"] & sides["validation"]
    assert 30 < len(sides["validation"]) < 90
    assert (tally.repeated, tally.leaked) == (300, 0)
    assert fingerprint("1 + 2") != fingerprint("1 - 2")
    assert fingerprint("Ｈｉ， there!") == fingerprint("hi there")
    assert fingerprint("?!") != fingerprint("...")


def test_given_splits_are_kept_and_what_they_share_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.jsonl").write_text(lines(*({"text": t, "label": t[0]} for t in ("a b", "A b!", "b"))))
    (tmp_path / "valid.csv").write_text("text,label\na b,a\nc,c\n")
    found = load_splits(tmp_path, read_labelled, 0.5)
    assert {split: [r.text for r in records] for split, records in found.items()} == {
        "train": ["a b", "A b!", "b"],
        "validation": ["a b", "c"],
    }
    said = capsys.readouterr().err
    assert "1 records ask what another does; 1 held-out ones are learned as well" in said
    assert [
        f"class '{label}' is in {split} only" in said for label, split in (("b", "train"), ("c", "validation"))
    ] == [
        True,
        True,
    ]
    (tmp_path / "train.jsonl").write_text(lines({"text": "", "label": "a"}))
    with pytest.raises(UserError, match="no record to learn from"):
        load_splits(tmp_path, read_labelled)
    assert "dropped 1 records: empty text (the first is" in capsys.readouterr().err


def test_all_forms_are_packed_with_the_loss_that_was_asked_for(
    tokenizer_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted by hand: of each answer its bytes, of which w-o-r-d is one token, and the token that ends it."""
    folder = tmp_path / "in"
    folder.mkdir()
    turns = [("human", "a"), ("gpt", "word"), ("human", "b"), ("gpt", "xyz")]
    (folder / "a.jsonl").write_text(
        lines(
            {"conversations": [{"from": side, "value": text} for side, text in turns]},
            {"instruction": "c", "output": "12"},
            {"conversations": [{"from": side, "value": text} for side, text in turns[:3]]},
            {"instruction": "d", "output": ""},
        )
    )
    (folder / "b.csv").write_text("prompt,completion\ne,word\n")
    for loss, tokens in (("all", (1 + 1) + (3 + 1) + (2 + 1) + (1 + 1)), ("last", (3 + 1) + (2 + 1) + (1 + 1))):
        config = ConversationsConfig(folder, tokenizer_folder, tmp_path / loss, loss=loss, validation_share=0)  # type: ignore[arg-type]
        summary = pack_conversations(config).summary
        assert summary["train"]["loss_tokens"] == tokens
        assert summary["train"]["documents"] == 3
        assert summary["dropped"] == {"ends without an answer": 1, "empty answer": 1}
    assert "dropped 1 records: ends without an answer (the first is" in capsys.readouterr().err


def test_what_else_a_record_says_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"prompt": "1 + 1", "completion": "2", "expected": ["2"]}))
    (record, _), = read_conversations(path)  # fmt: skip
    assert isinstance(record, Conversation)
    assert record.record["expected"] == ["2"]


def test_labels_are_counted_in_the_file_of_a_kind_users_have(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"{'spam' if i % 8 == 0 else 'ham'}\tmessage {i}\n" for i in range(400)))
    found = load_splits(path, functools.partial(read_labelled, columns=("label", "text")), 0.25)
    counts = Counter(r.label for records in found.values() for r in records)
    assert counts == {"spam": 50, "ham": 350}
    assert 60 < len(found["validation"]) < 140
