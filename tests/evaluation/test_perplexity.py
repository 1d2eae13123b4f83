"""Perplexity and bits per byte against hand calculation and a plain loop."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fromzero.artifact import build
from fromzero.corpus.document import Document
from fromzero.corpus.storing import DocumentWriter
from fromzero.dataset import PackConfig, TokenShards, pack
from fromzero.errors import UserError
from fromzero.evaluation import EvaluationConfig, evaluate, score_documents, shards_perplexity
from fromzero.evaluation import baselines as baseline
from fromzero.evaluation.perplexity import DocumentScore, summarize
from fromzero.evaluation.shards import byte_lengths
from fromzero.model import ModelConfig, Transformer, functions
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.normalize import lowercase, prepend
from fromzero.tokenizer.unigram import SPACE, Metaspace, UnigramTokenizer
from fromzero.tokenizer.word import UNKNOWN, CharacterTokenizer
from tests.conftest import Chain

END = "<|endoftext|>"
TEXTS = ["The river near the stone is bright.", "x", "Nobody saw the cloud today. " * 12, "从零开始", ""]


def model_for(chain: Chain, context: int = 16) -> Transformer:
    return Transformer(ModelConfig(vocab_size=chain.tokenizer.vocab_size, context=context, layers=1, width=16, heads=2))


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_scores_equal_a_plain_loop_over_windows(chain: Chain, batch_tokens: int) -> None:
    model = model_for(chain)
    found = list(score_documents(model, chain.tokenizer, TEXTS, batch_tokens))
    assert len(found) == 4
    for text, score in zip(TEXTS, found, strict=False):
        ids = [chain.tokenizer.end_of_text, *chain.tokenizer.encode(text)]
        nats = 0.0
        for start in range(0, len(ids) - 1, 16):
            window = torch.tensor(ids[start : start + 17])
            with torch.no_grad():
                nats += float(functions.cross_entropy(model(window[None, :-1])[0], window[1:]).sum())
        assert score.nats == pytest.approx(nats, rel=1e-5)
        assert (score.tokens, score.bytes, score.characters) == (len(ids) - 1, len(text.encode()), len(text))


def test_a_model_that_knows_nothing_needs_log_of_the_vocabulary(chain: Chain) -> None:
    model = model_for(chain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    result = summarize(score_documents(model, chain.tokenizer, TEXTS))
    assert result.perplexity == pytest.approx(chain.tokenizer.vocab_size, rel=1e-5)
    expected = result.tokens * math.log2(chain.tokenizer.vocab_size) / result.bytes
    assert result.bits_per_byte == pytest.approx(expected, rel=1e-5)


def characters(known: str) -> Tokenizer:
    specials = {END: len(known), UNKNOWN: len(known) + 1}
    roles = {"bos_token": END, "unk_token": UNKNOWN}
    return CharacterTokenizer({c: i for i, c in enumerate(known)}, special_tokens=specials, roles=roles)


def knows_nothing(tokenizer: Tokenizer, context: int = 16) -> Transformer:
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, context=context, layers=1, width=16, heads=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


def test_the_less_a_tokenizer_knows_the_more_bits_it_needs() -> None:
    texts = ["abcd" * 20, "dcba"]
    found = []
    for known in ("abcd", "abc", "a", ""):
        tokenizer = characters(known)
        found.append(summarize(score_documents(knows_nothing(tokenizer), tokenizer, texts)))
    sizes = [6, 5, 3, 2]
    unknown = [0, 21, 63, 84]  # of 84 bytes; each costs its byte and an end
    expected = [math.log2(v) + 8 * 2 * n / 84 for v, n in zip(sizes, unknown, strict=True)]
    assert [result.bits_per_byte for result in found] == pytest.approx(expected, rel=1e-5)
    assert expected == sorted(expected)
    assert [result.spelled for result in found] == [2 * n for n in unknown]
    assert [result.perplexity for result in found] == pytest.approx(sizes, rel=1e-5)
    assert found[1].nats == pytest.approx(84 * math.log(5), rel=1e-5)
    assert found[1].nats_per_character == pytest.approx(expected[1] * math.log(2), rel=1e-5)


def test_changed_text_has_no_bits_per_byte() -> None:
    tokenizer = characters("ab")
    tokenizer.normalizer = lowercase()
    result = summarize(score_documents(knows_nothing(tokenizer), tokenizer, ["ab", "aB", "ba"]))
    assert (result.changed, result.documents) == (1, 3)
    assert result.bits_per_byte is result.bits_per_byte_stderr is result.nats_per_character is None
    assert result.perplexity == pytest.approx(4, rel=1e-5)


@pytest.fixture(scope="module")
def pack_as(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tokenizer], TokenShards]:
    """The held-out split of two documents, packed with a tokenizer."""
    folder = tmp_path_factory.mktemp("lossy")

    def fill(output: Path) -> dict[str, Any]:
        for split in ("train", "validation"):
            with DocumentWriter(output, split) as writer:
                for i, text in enumerate(("ab ab ab", "ba ba")):
                    writer.write(Document(f"{split}{i}", text, "a.txt", "", "en", {}))
        return {}

    corpus = build(folder / "corpus", "corpus", {}, {}, fill)

    def pack_with(tokenizer: Tokenizer) -> TokenShards:
        tokenizer.save(folder / "tokenizer")
        return TokenShards(pack(PackConfig(corpus.path, folder / "tokenizer", folder / "tokens")).path, "validation")

    return pack_with


def test_training_watches_bits_per_byte_only_where_no_text_is_lost(pack_as: Callable[..., TokenShards]) -> None:
    for known, lossless in (("ab ", True), ("a ", False)):
        tokenizer = characters(known)
        shards = pack_as(tokenizer)
        found = shards_perplexity(knows_nothing(tokenizer), shards, tokenizer, 1 << 20)
        assert shards.lossless == lossless == ("bits_per_byte" in found)
        assert found["loss"] == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-5)


def test_the_blank_before_a_document_is_not_counted(pack_as: Callable[..., TokenShards]) -> None:
    pieces = [(SPACE, -3.0), (f"{SPACE}ab", -1.0), ("a", -2.0), ("b", -2.0)]
    common = {"normalizer": prepend(SPACE), "metaspace": Metaspace("never")}
    roles = {"bos_token": END, "unk_token": UNKNOWN}
    tokenizer = UnigramTokenizer(pieces, UNKNOWN, {END: 4, UNKNOWN: 5}, roles=roles, **common)  # type: ignore[arg-type]
    shards = pack_as(tokenizer)
    model = knows_nothing(tokenizer, context=10)
    whole = summarize(score_documents(model, tokenizer, ["ab ab ab", "ba ba"]))
    assert shards.lossless
    assert len(shards) == 2 + 3 + 6  # all but the first are targets of one window
    assert whole.bytes == 13
    found = shards_perplexity(model, shards, tokenizer, 1 << 20)
    assert found["bits_per_byte"] == pytest.approx(whole.bits_per_byte)


def test_rates_by_hand() -> None:
    result = summarize([DocumentScore(2.0, 2, 4, 4), DocumentScore(4.0, 3, 6, 5)])
    assert result.bits_per_byte == pytest.approx(6 / (math.log(2) * 10))
    assert result.nats_per_character == pytest.approx(6 / 9)
    assert result.perplexity == pytest.approx(math.exp(6 / 5))
    spread = (2 - 0.6 * 4) ** 2 + (4 - 0.6 * 6) ** 2
    assert result.bits_per_byte_stderr == pytest.approx(math.sqrt(2 * spread) / 10 / math.log(2))
    assert summarize([DocumentScore(2.0, 2, 4, 4)]).bits_per_byte_stderr is None
    with pytest.raises(UserError, match="no held-out document"):
        summarize([])


def test_the_standard_error_is_the_spread_of_repeated_samples() -> None:
    random = np.random.default_rng(0)

    def draw() -> list[DocumentScore]:
        sizes = random.integers(50, 500, 200)
        rates = random.normal(0.8, 0.2, 200)
        return [DocumentScore(float(s * r), int(s), int(s), int(s)) for s, r in zip(sizes, rates, strict=True)]

    results = [summarize(draw()) for _ in range(300)]
    spread = np.std([r.bits_per_byte for r in results])
    assert np.mean([r.bits_per_byte_stderr for r in results]) == pytest.approx(spread, rel=0.12)


def test_shards_count_text_bytes_only(chain: Chain) -> None:
    shards = TokenShards(chain.tokens, "validation")
    lengths = byte_lengths(chain.tokenizer)
    assert int(lengths[chain.tokenizer.end_of_text]) == 0
    assert int(lengths[shards[0 : len(shards)].astype(np.int64)].sum()) == shards.text_bytes
    model = model_for(chain)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = shards_perplexity(model, shards, chain.tokenizer, max_tokens=1 << 20)
    assert found["loss"] == pytest.approx(math.log(chain.tokenizer.vocab_size), rel=1e-5)
    few = shards_perplexity(model, shards, chain.tokenizer, max_tokens=32)
    assert few["loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_the_unigram_baseline_by_hand() -> None:
    counts = np.array([3.0, 1.0, 0.0])  # with add-one: 4/7, 2/7, 1/7
    found = baseline.unigram_bits_per_byte(counts, [[0, 1], [2]], held_out_bytes=6)
    assert found == pytest.approx(-(math.log2(4 / 7) + math.log2(2 / 7) + math.log2(1 / 7)) / 6)


def test_compressors_gain_from_training_text_they_have_seen() -> None:
    random = np.random.default_rng(0)
    text = bytes(random.integers(97, 123, 20_000, dtype=np.uint8))
    for compress in (baseline.zstd_bits_per_byte, baseline.xz_bits_per_byte):
        assert compress(text, text) < 0.2 < 4.0 < compress(b"", text) < 5.5
    assert 4.0 < baseline.gzip_bits_per_byte(text) < 5.5


def test_the_stage_writes_scores(chain: Chain, tiny_model: "object") -> None:
    folder = chain.folder / "scores"
    result = evaluate(EvaluationConfig(model=tiny_model, corpus=chain.corpus, output=folder)).summary  # type: ignore[arg-type]
    assert result["baselines"].keys() == {"unigram", "gzip", "zstd", "xz"}
    assert 0 < result["model"]["bits_per_byte"] < result["baselines"]["unigram"]
    assert result["model"]["bits_per_byte_stderr"] < 0.2
