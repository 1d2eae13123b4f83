import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from fromzero.commands import main
from fromzero.errors import UserError
from fromzero.inference.embedding import Embedder
from fromzero.inference.retrieval import Index, Passage, cut_passages, grounded
from fromzero.interop import save_model
from fromzero.interop.download import DownloadConfig, download
from fromzero.model import ModelConfig, Transformer
from fromzero.tokenizer import load_tokenizer
from tests.conftest import Chain

SENTENCE = "the cat sat on a mat dogs bark at night sun shines by day ships sail over wide seas"
TEXTS = ["the cat sat", "dogs bark at night over wide seas by day", "", "猫 在 the mat", "sun " * 60, "ships", "a mat"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with random weights, in the layout of MiniLM."""
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SENTENCE.split(), "猫", "。", "."])
    )
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=27, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(shape).eval().save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


def reference(folder: Path, texts: Sequence[str], how: str = "mean") -> torch.Tensor:
    model, tokenizer = BertModel.from_pretrained(folder).eval(), BertTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:  # one at a time: no padding
        batch = tokenizer([text], truncation=True, max_length=32, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state[0]
        rows.append(hidden.mean(0) if how == "mean" else hidden[0])
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def test_vectors_are_those_of_transformers(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch_tokens in (8192, 70, 1):
        monkeypatch.setattr("fromzero.inference.classifying.BATCH_TOKENS", batch_tokens)
        torch.testing.assert_close(Embedder(encoder, "cpu")(TEXTS), reference(encoder, TEXTS), atol=1e-5, rtol=0)
    folder = tmp_path / "first"
    shutil.copytree(encoder, folder)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    torch.testing.assert_close(Embedder(folder, "cpu")(TEXTS), reference(folder, TEXTS, "first"), atol=1e-5, rtol=0)
    assert Embedder(encoder, "cpu")([]).shape == (0, 32)
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(UserError, match="can't be read as JSON"):
        Embedder(folder)


DOCUMENT = """# Cats

The cat sat
on the mat.

Dogs bark at night. The sun shines by day. Ships sail over wide seas. Dogs bark at night. The sun shines by day.

猫。猫。猫。猫。猫。猫。猫。猫。猫。猫。猫。猫。猫。猫。
"""


def test_passages_are_paragraphs_with_their_lines(encoder: Path) -> None:
    tokenizer = load_tokenizer(encoder)
    found = list(cut_passages(DOCUMENT, tokenizer, 16))
    assert [(line, text[:9]) for line, text in found] == [
        (1, "# Cats\n\nT"),
        (6, "Dogs bark"),
        (6, "Ships sai"),
        (6, "The sun s"),
        (8, "猫。猫。猫。猫。猫"),
        (8, "猫。猫。猫。猫。猫"),
    ]
    assert max(len(tokenizer.encode(text)) for _, text in found) <= 16


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("ab .\n!?。猫é"), max_size=300), limit=st.integers(2, 20))
def test_passages_hold_all_of_the_text_and_fit(encoder: Path, text: str, limit: int) -> None:
    tokenizer = load_tokenizer(encoder)
    found = list(cut_passages(text, tokenizer, limit))
    assert "".join("".join(passage.split()) for _, passage in found) == "".join(text.split())
    lines = text.splitlines()
    assert all(passage.split()[0][0] in lines[line - 1] for line, passage in found if passage)
    assert all(len(tokenizer.encode(passage)) <= limit for _, passage in found)


CHINESE = "\n\nsun shines by day 猫\n\n我们的文档大多是用中文写的，所以也要能够读懂这样的文件，并且在其中找到答案。"


def test_an_index_finds_the_passage_and_is_reused(encoder: Path, tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    (documents / "more").mkdir(parents=True)
    (documents / "animals.txt").write_text("the cat sat on a mat\n")
    (documents / "more" / "weather.md").write_bytes(CHINESE.encode("gb18030"))
    (documents / "more" / "picture.png").write_bytes(b"\x89PNG")
    (documents / "binary.txt").write_bytes(bytes(range(256)) * 20)
    embedder = Embedder(encoder, "cpu")
    index = Index(documents, embedder, tmp_path / "index", 16)
    assert index.search("sun shines by day 猫")[0] == (
        pytest.approx(1, abs=1e-5), Passage("more/weather.md", 3, "sun shines by day 猫"))  # fmt: skip
    assert len(index.search("the cat sat on a mat", 9)) == len(index.passages) == 6
    before = (tmp_path / "index" / "vectors.safetensors").stat().st_mtime_ns
    Index(documents, embedder, tmp_path / "index", 16)
    assert (tmp_path / "index" / "vectors.safetensors").stat().st_mtime_ns == before
    (documents / "animals.txt").write_text("dogs bark at night\n")
    assert (
        Index(documents, embedder, tmp_path / "index", 16).search("dogs bark at night", 1)[0][1].file == "animals.txt"
    )
    with pytest.raises(UserError, match="no such folder with text files"):
        Index(tmp_path / "nothing", embedder)


def test_passages_go_where_they_fit() -> None:
    passages = [Passage("a.txt", 1, "x" * 50), Passage("b.txt", 2, "y" * 50), Passage("c.txt", 3, "z" * 50)]
    question = {"role": "user", "content": "?"}
    for room, system, count in ((1000, None, 3), (250, None, 2), (250, "Be kind.", 2), (100, None, 0)):
        messages = [*([{"role": "system", "content": system}] if system else []), question]
        made, shown = grounded(messages, passages, lambda made, room=room: sum(len(m["content"]) for m in made) < room)
        assert shown == passages[:count]
        assert made[-1] == question
        assert len(made) == 1 + bool(count or system)
        assert not system or made[0]["content"].startswith(system)
        assert all(f"[{n}] {p.text}" in made[0]["content"] for n, p in enumerate(shown, 1))


def test_the_verb(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(encoder), "--texts", "the cat", "dogs"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["the cat", "dogs"]
    assert sum(x * x for x in lines[0]["vector"]) == pytest.approx(1)
    (tmp_path / "a.txt").write_text("ships sail over wide seas\n")
    documents = ["--documents", str(tmp_path), "--output", str(tmp_path / "index"), "--query", "ships sail"]
    assert main(["embed", str(encoder), *documents]) == 0
    assert "a.txt, line 1\nships sail over wide seas" in capsys.readouterr().out
    assert main(["embed", str(encoder)]) == 2


def test_a_chat_says_which_passages_it_was_shown(
    encoder: Path, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "a.txt").write_text("dogs bark\n\n\nships sail over wide seas by day and by night\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for context, shown in ((512, ["[1] a.txt, line 1"]), (64, ["(no passage of the documents fits"])):
        shape = ModelConfig(chain.tokenizer.vocab_size, context, 1, 32, 2)
        (folder := tmp_path / f"model{context}").mkdir()
        save_model(Transformer(shape), folder, chain.tokenizer_folder, {})
        monkeypatch.setattr("sys.stdin", io.StringIO("dogs bark\n"))
        options = ["--documents", str(documents), "--embedding", str(encoder), "--sampling.max_tokens", "4"]
        assert main(["chat", str(folder), *options]) == 0
        said = capsys.readouterr().err
        assert all(line in said for line in shown)


@pytest.mark.slow
def test_minilm_finds_what_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    try:
        folder = download(DownloadConfig("minilm-l6-v2"))
    except UserError as error:
        pytest.skip(str(error))
    texts = ["The boiler is cleaned once a year.", "Parts are bought from two suppliers.", "猫坐在垫子上。" * 60, "x"]
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    embedder = Embedder(Path("minilm-l6-v2"), "cpu")
    batch = tokenizer(texts, padding=True, truncation=True, max_length=embedder.longest, return_tensors="pt")
    with torch.inference_mode():
        hidden, keep = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * keep).sum(1) / keep.sum(1), dim=-1)
    torch.testing.assert_close(embedder(texts), mean, atol=1e-5, rtol=0)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("\n\n\n".join(text * 4 for text in texts))
    found = Index(tmp_path / "texts", embedder, tmp_path / "index", 40).search(
        "When do I have to service the heating?", 1
    )
    assert found[0][1].text.startswith("The boiler")
