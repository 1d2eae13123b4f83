"""`tokenizer.json` in the forms that published models have it: the same ids as in `tokenizers`, and saved again."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from fromzero.tokenizer import Tokenizer, load_tokenizer
from tests.tokenizer.conftest import CHINESE, ENGLISH
from tests.tokenizer.fuzz import CURIOUS, fuzzed

TRAINING = [ENGLISH, CHINESE, "a  b   c\n\n\n    d", "<x> [y] 1234 ①②③ naïve façade Ångström " * 3]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK = (r"\p{N}{1,3}", "[一-龥ぁ-ゟ゠-ヿ]+", r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s+")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
BLANKS = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def splits(*patterns: str) -> Any:
    parts = [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*parts, BYTES])


def byte_level(pre_tokenizer: Any, normalizer: Any = None, **settings: Any) -> Any:
    made = tokenizers.Tokenizer(models.BPE(**settings))
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TRAINING, trainer)
    return made


def sentencepiece(normalizer: Any, pre_tokenizer: Any, strip: bool = True, fallback: bool = True) -> Any:
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=fallback))
    made.decoder = decoders.Sequence([*BLANKS, decoders.Strip(" ", 1, 0)] if strip else BLANKS)
    if normalizer:
        made.normalizer = normalizer
    if pre_tokenizer:
        made.pre_tokenizer = pre_tokenizer
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", *pieces], show_progress=False)
    words = [" ".join(text.split()).replace(" ", " ▁").split(" ") for text in TRAINING]
    made.train_from_iterator([word for text in words for word in text], trainer)
    saved = json.loads(made.to_str())
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["content"] not in pieces]
    return tokenizers.Tokenizer.from_str(json.dumps(saved))


def llama2(strip: bool = True) -> Any:
    return normalizers.Sequence([*([normalizers.Prepend("▁")] if strip else []), normalizers.Replace(" ", "▁")])


def with_added(made: Any, **flags: bool) -> Any:
    """With a special token, and with tokens that are not special, one of them made of blanks."""
    made.add_special_tokens(["<bos>", "<|end|>"])
    made.add_tokens([tokenizers.AddedToken(text, **({"normalized": False} | flags)) for text in ("<x>", "[y]", "   ")])
    template = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", made.token_to_id("<bos>"))])
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return made


FORMS = {
    "gpt2": lambda: byte_level(GPT2),
    "smollm2": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])),
    "digits": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), GPT2])),
    "string": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Split("o.", "isolated"), GPT2])),
    "llama3": lambda: with_added(byte_level(splits(LLAMA3), ignore_merges=True)),
    "qwen2": lambda: with_added(byte_level(splits(QWEN2), normalizers.NFC())),
    "deepseek": lambda: with_added(byte_level(splits(*DEEPSEEK)), normalized=True),
    **{flag: lambda flag=flag: with_added(byte_level(GPT2, normalizers.NFKC()), **{flag: True}) for flag in FLAGS},
    "llama2": lambda: with_added(sentencepiece(llama2(), None)),
    "mistral": lambda: with_added(sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False))),
    "always": lambda: with_added(sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False))),
    "words": lambda: with_added(sentencepiece(None, pre_tokenizers.Metaspace(), fallback=False)),
    "gemma": lambda: with_added(
        sentencepiece(llama2(False), pre_tokenizers.Split(" ", "merged_with_previous"), strip=False)
    ),
}


@pytest.fixture(scope="module", params=list(FORMS))
def published(request: pytest.FixtureRequest) -> Any:
    return FORMS[request.param]()


def check(ours: Tokenizer, theirs: Any, texts: list[str]) -> None:
    for text in texts:
        theirs.encode_special_tokens = False
        ids = theirs.encode(text).ids
        assert ours.encode(text, special="allow", add_special_tokens=True) == ids, repr(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False), repr(text)
        theirs.encode_special_tokens = True
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, repr(text)


def test_ids_equal_those_of_tokenizers(published: Any, tmp_path: Path) -> None:
    texts = [
        *CURIOUS,
        *fuzzed(60, old=True),
        *ENGLISH.splitlines()[:20],
        " ",
        "a <x>b",
        "<x>",
        "  [y]  c[y]",
        "<|end|>  <bos>a",
    ]
    texts += ["".join(texts[i::7]) for i in range(7)]
    published.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    check(ours, published, texts)
    ours.save(tmp_path / "again")
    check(load_tokenizer(tmp_path / "again"), published, texts)
    check(ours, tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json")), texts)


def test_bytes_that_a_vocabulary_lacks_are_left_out_or_unknown(tmp_path: Path) -> None:
    for unknown in (None, "<unk>"):
        made = byte_level(GPT2)
        saved = json.loads(made.to_str())
        vocabulary = [token for token in saved["model"]["vocab"] if token not in "q€ĠĢ"]
        saved["model"]["vocab"] = {token: i for i, token in enumerate(["<unk>", *vocabulary])}
        saved["model"]["merges"] = [
            m for m in saved["model"]["merges"] if all(part in vocabulary for part in (*m, "".join(m)))
        ]
        saved["model"]["unk_token"] = unknown
        saved["added_tokens"] = [{"id": 0, "content": "<unk>", "special": True, **dict.fromkeys(FLAGS, False)}]
        (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
        theirs = tokenizers.Tokenizer.from_str(json.dumps(saved))
        ours = load_tokenizer(tmp_path)
        check(ours, theirs, [*CURIOUS, *fuzzed(50)])
        ours.save(tmp_path)
        check(load_tokenizer(tmp_path), theirs, CURIOUS)
