"""Tokenizers out of GGUF files: the same ids as from the files that they were made from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from tokenizers import Regex, pre_tokenizers

from fromzero.errors import UserError
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.bpe_file import spell
from fromzero.tokenizer.gguf_tokenizer import PRE_TOKENIZERS
from fromzero.tokenizer.wordpiece import load_vocab_txt
from tests.tokenizer.fuzz import CURIOUS, fuzzed
from tests.tokenizer.gguf_samples import write_gguf
from tests.tokenizer.test_sentencepiece_file import LLAMA2, train

TEXTS = [*CURIOUS, *fuzzed(50, old=True)]


def ggml(**values: Any) -> dict[str, Any]:
    return {f"tokenizer.ggml.{name}": value for name, value in values.items()}


def bpe(tokenizer: BPETokenizer) -> dict[str, Any]:
    """The metadata that llama.cpp's converter makes of a byte-level BPE."""
    tokens = [spell(token) for token in sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.__getitem__)]
    merges = [f"{tokens[left]} {tokens[right]}" for left, right in tokenizer.merges]
    more = ["<|bos|>", "<think>", "[PAD514]"]
    types = np.array([1] * len(tokens) + [3, 4, 5], np.int32)
    return {
        **ggml(model="gpt2", pre="qwen2", tokens=tokens + more, token_type=types, merges=merges),
        **ggml(bos_token_id=len(tokens), add_bos_token=True),
        "tokenizer.chat_template": "{{ bos_token }}",
    }


def test_byte_level_bpe(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    data = bpe(tokenizer)
    ours = load_tokenizer(write_gguf(tmp_path / "m.gguf", data))
    same = BPETokenizer(tokenizer.vocabulary, tokenizer.merges, "qwen2")
    bos = len(tokenizer.vocabulary)
    for text in TEXTS:
        assert ours.encode(text) == same.encode(text), repr(text)
    assert ours.encode("<|bos|>a<think>", special="allow") == [bos, *same.encode("a"), bos + 1]
    assert ours.encode("a", add_special_tokens=True) == [bos, *same.encode("a")]
    assert ours.vocab_size == bos + 2
    assert ours.chat_template is not None
    assert ours.chat_template.render([{"role": "user", "content": "a"}]) == "<|bos|>"


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_all_ways_of_cutting_text_can_be_used(tokenizer: BPETokenizer, pre: str, tmp_path: Path) -> None:
    ours = load_tokenizer(write_gguf(tmp_path / "m.gguf", {**bpe(tokenizer), **ggml(pre=pre)}))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in ours.patterns]
    theirs = pre_tokenizers.Sequence(cuts)
    for text in TEXTS:
        assert ours.decode(ours.encode(text)) == text
        assert ours.splitter.pieces(text) == [piece for piece, _ in theirs.pre_tokenize_str(text)], repr(text)


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("tekken", "iPhone's 123 ÀB", ["i", "Phone", "'s", " ", "1", "2", "3", " ÀB"]),
        ("deepseek-llm", "Héllo, 世界123 \n x  ", ["H", "é", "llo", ",", " ", "世界", "123", " ", "\n", " x", "  "]),
        ("deepseek-llm", "aꞐ “ὼ” ﬁ。", ["a", "Ꞑ", " ", "“", "ὼ", "”", " ﬁ", "。"]),
    ],
)
def test_published_ways_of_cutting_text(
    tokenizer: BPETokenizer, pre: str, text: str, pieces: list[str], tmp_path: Path
) -> None:
    data = {name: value for name, value in bpe(tokenizer).items() if "add_bos" not in name}
    ours = load_tokenizer(write_gguf(tmp_path / "m.gguf", {**data, **ggml(pre=pre)}))
    assert isinstance(ours, BPETokenizer)
    assert ours.splitter.pieces(text) == pieces
    assert ours.splitter.cuts(text.encode()).tolist() == np.cumsum([len(p.encode()) for p in pieces]).tolist()
    assert bool(ours.prefix) == ours.whole == (pre == "tekken")


@pytest.mark.parametrize("options", [LLAMA2, {"model_type": "unigram", "normalization_rule_name": "identity"}])
def test_sentencepiece(options: dict[str, Any], tmp_path: Path) -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(train(tmp_path, **options)))
    ids = range(len(theirs))
    kinds = [2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1 for i in ids]
    data = ggml(
        model="llama" if options is LLAMA2 else "t5",
        tokens=theirs.id_to_piece(list(ids)),
        scores=np.array(theirs.get_score(list(ids)), np.float32),
        token_type=np.array(kinds, np.int32),
        remove_extra_whitespaces=options is not LLAMA2,
        bos_token_id=1,
        eos_token_id=2,
    )
    ours = load_tokenizer(write_gguf(tmp_path / "m.gguf", data))
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), repr(text)
    assert ours.prefix == (("<s>",) if options is LLAMA2 else ())


def test_bert(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "##o", "he", "##ll", ",", "从"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    same = load_vocab_txt(tmp_path / "vocab.txt")
    marked = [t if t[0] == "[" else t[2:] if t[0] == "#" else f"▁{t}" for t in tokens]
    kinds = np.array([3] * 5 + [1] * 6, np.int32)
    names = {"unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3, "padding_token_id": 0}
    data = ggml(model="bert", tokens=marked, token_type=kinds, **names)
    ours = load_tokenizer(write_gguf(tmp_path / "m.gguf", data))
    for text in [*TEXTS, "Hello, hell Hello从从"]:
        assert ours.encode(text, add_special_tokens=True) == same.encode(text, add_special_tokens=True), repr(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ggml(model="rwkv"), "model 'rwkv'"),
        (ggml(pre="bloom"), "'bloom'"),
        (ggml(pre=["a"]), "not a GGUF file with a tokenizer"),
        (ggml(tokens="abc"), "no texts"),
        (ggml(tokens=["a"]), "more or fewer"),
        (ggml(merges=["a"]), "not a GGUF file with a tokenizer"),
        (ggml(merges=["a b c"]), "not a GGUF file with a tokenizer"),
        (ggml(merges=["从 零"]), "not in its vocabulary"),
        (ggml(bos_token_id=9999), "not a GGUF file with a tokenizer"),
        (ggml(model="llama"), "not a GGUF file with a tokenizer"),
        ({"tokenizer.chat_template": "{% bad"}, "template"),
    ],
)
def test_what_does_not_fit_is_told(
    tokenizer: BPETokenizer, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "m.gguf", bpe(tokenizer) | change)
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(file)
    assert str(file) in str(caught.value)
