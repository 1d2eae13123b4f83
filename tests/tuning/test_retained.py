"""Forgetting: the figure is that of the evaluation, from whatever the text is read."""

from pathlib import Path

import pytest
import torch

from fromzero.corpus import read_corpus
from fromzero.errors import UserError
from fromzero.evaluation.perplexity import score_documents, summarize
from fromzero.interop import load_model
from fromzero.tokenizer import load_tokenizer
from fromzero.tuning.retained import Retained
from tests.conftest import Chain


def test_tokens_corpus_and_files_give_the_figure_of_the_evaluation(
    chain: Chain, tiny_model: Path, tmp_path: Path
) -> None:
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    texts = [document.text for document in read_corpus(chain.corpus, "validation")]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89\xff")
    expected = summarize(score_documents(model, tokenizer, texts))
    for source in (chain.tokens, chain.corpus, tmp_path):
        retained = Retained.open(source, tokenizer, 10**6)
        assert retained.texts == tuple(texts), source
        found = retained.measure(model)
        assert found["retained_bits_per_byte"] == pytest.approx(expected.bits_per_byte)
        assert found["retained_loss"] == pytest.approx(expected.nats / expected.tokens)
    with torch.no_grad():
        model.token_embedding.weight.add_(torch.randn(model.token_embedding.weight.shape))
    assert retained.measure(model)["retained_loss"] > found["retained_loss"] + 0.1


def test_as_many_tokens_as_asked_for(chain: Chain, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    sizes = [len(tokenizer.encode_ordinary(t)) for t in Retained.open(chain.corpus, tokenizer, 10**6).texts]
    for wanted in (10, sizes[0], sizes[0] + 50):
        kept = Retained.open(chain.corpus, tokenizer, wanted).texts
        assert abs(sum(len(tokenizer.encode_ordinary(text)) for text in kept) - wanted) <= 20


def test_no_more_is_read_than_is_needed(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"a few words " * 50_000 + b"\xff")
    tokenizer = load_tokenizer(tiny_model)
    (text,) = Retained.open(tmp_path / "long.txt", tokenizer, 10).texts
    assert 5 <= len(tokenizer.encode_ordinary(text)) <= 15


def test_what_is_no_text_is_refused(chain: Chain, tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for path, why in (
        (tmp_path / "none.txt", "is not there"),
        (tmp_path / "empty.txt", "has no text"),
        (tmp_path / "binary.txt", "binary.txt is not in UTF-8"),
        (chain.tokenizer_folder, "is a tokenizer"),
    ):
        with pytest.raises(UserError, match=why):
            Retained.open(path, tokenizer, 100)
