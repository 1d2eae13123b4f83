"""What is saved opens in `tokenizers` and `transformers` with the same ids; what can't be represented is refused."""

import json
import random
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary

CURIOUS = [
    "", " ", "  \n\n\t ", "\r\n\r\n  a\r\nb", "a" * 5000, " " * 5000, "\n" * 999, "I'LL we'Ve 'S 'ſ", "x=1234567890",
    "👨‍👩‍👧‍👦 🏳️‍🌈 ❤️ 👍🏽 🇨🇳", "e\u0301\u0301\u0301 n\u0303o", "ภาษาไทยเป็นภาษาที่สวยงาม", "اَلسَّلَامُ عَلَيْكُمْ", "हिन्दी में लिखा",
    "从零开始，训练3.14个模型！", "\u3000\u2028\u2029\x85\x1c\x1d\x00\x7f", "½²³ Ⅷ ٣٤٥ 一二三", "\ufeffBOM\u200b\u200d",
    "<|im_end|> <|endoftext|>", "\U0010fff0\ue000\U000e0041", "ᄀ각힣 ﷽ ﬁ ǅ",
]  # fmt: skip


def engines_agree(character: str) -> bool:
    """Whether both engines know the character: Oniguruma's Unicode is version 14, the same as Python 3.11's."""
    if not unicodedata.category(character).startswith("C"):
        return tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\p{L}\p{M}\p{N}]"), "removed").pre_tokenize_str(
            character
        ) == ([] if unicodedata.category(character)[0] in "LMN" else [(character, (0, 1))])
    return unicodedata.category(character) in ("Cc", "Cf", "Co")


@pytest.fixture(scope="module")
def fuzzed() -> list[str]:
    """Texts from all planes of Unicode, in runs from one script and mixed, with blanks, line ends and digits."""
    choose = random.Random(0)
    known = [c for code in choose.sample(range(0xD800), 6000) if engines_agree(c := chr(code))]
    known += [c for code in choose.sample(range(0xE000, 0x110000), 6000) if engines_agree(c := chr(code))]
    common = " \n\r\t'0123456789abcABC.,-_sdtmlre你好，。"
    texts = []
    for _ in range(600):
        start = choose.randrange(len(known))
        alphabet = choose.choice([known, known[start : start + 40], list(common)]) + list(common)
        texts.append("".join(choose.choices(alphabet, k=choose.choice([1, 5, 40, 300]))))
    return texts


@pytest.fixture(scope="module", params=["fromzero", "gpt2"])
def saved(request: pytest.FixtureRequest, tokenizer: BPETokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    template = tokenizer.chat_template.source if tokenizer.chat_template else None
    specials = tokenizer.special_tokens
    BPETokenizer(tokenizer.vocabulary, tokenizer.merges, request.param, specials, tokenizer.roles, template).save(
        folder
    )
    return folder


def test_ids_equal_those_of_tokenizers(saved: Path, fuzzed: list[str]) -> None:
    ours, theirs = load_tokenizer(saved), tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    for text in CURIOUS + fuzzed:
        assert ours.encode(text, special="allow") == theirs.encode(text).ids, repr(text)
        assert theirs.decode(ours.encode(text), skip_special_tokens=False) == text
    theirs.encode_special_tokens = True
    for text in CURIOUS:
        assert ours.encode(text) == theirs.encode(text).ids, repr(text)


def test_ids_equal_those_of_transformers(saved: Path, fuzzed: list[str]) -> None:
    ours, theirs = load_tokenizer(saved), transformers.AutoTokenizer.from_pretrained(saved)
    assert theirs.vocab_size == len(theirs) == ours.vocab_size
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.pad_token_id == ours.end_of_text
    for text in CURIOUS + fuzzed[:200]:
        assert ours.encode(text, special="allow") == theirs.encode(text), repr(text)
        assert theirs.decode(ours.encode(text)) == text


def test_what_is_loaded_equals_what_was_saved(saved: Path, tmp_path: Path) -> None:
    load_tokenizer(saved).save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_what_tokenizers_and_transformers_write_is_read(saved: Path, tmp_path: Path) -> None:
    ours = load_tokenizer(saved)
    transformers.AutoTokenizer.from_pretrained(saved).save_pretrained(tmp_path)
    back = load_tokenizer(tmp_path)
    assert (back.vocabulary, back.merges, back.special_tokens) == (ours.vocabulary, ours.merges, ours.special_tokens)
    assert back.pattern == ours.pattern
    assert back.end_of_text == ours.end_of_text
    assert back.chat_template is not None
    assert ours.chat_template is not None
    assert back.chat_template.source.strip() == ours.chat_template.source.strip()


def test_gpt2_form_with_its_pattern_built_in_is_read(saved: Path, tmp_path: Path) -> None:
    change(
        saved,
        tmp_path,
        lambda t: t.update(
            pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        ),
    )
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in CURIOUS:
        assert load_tokenizer(tmp_path).encode(text, special="allow") == theirs.encode(text).ids


TEMPLATE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {}}]}
WRONG_ID = {"x": {"id": "x", "ids": [1], "tokens": ["<|endoftext|>"]}}


def nested(depth: int) -> dict[str, Any]:
    """Normalizers in normalizers."""
    return {"type": "Sequence", "normalizers": [nested(depth - 1)] if depth else []}


def change(source: Path, target: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
    saved = json.loads((source / "tokenizer.json").read_text())
    edit(saved)
    (target / "tokenizer.json").write_text(json.dumps(saved))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t["model"].update(type="Syllables"), "is a Syllables model"),
        (lambda t: t["model"].update(dropout=0.1), "dropout=0.1"),
        (lambda t: t["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda t: t.update(normalizer={"type": "Nmt"}), "has a Nmt normalizer"),
        (lambda t: t.update(normalizer=nested(20)), "has a Sequence normalizer"),
        (lambda t: t.update(post_processor={"type": "BertJapaneseProcessing"}), "BertJapaneseProcessing"),
        (lambda t: t.update(post_processor=TEMPLATE | {"special_tokens": {}}), "not a tokenizer"),
        (lambda t: t.update(post_processor=TEMPLATE | {"special_tokens": WRONG_ID}), "other ids"),
        (lambda t: t.update(post_processor=TEMPLATE | {"single": []}), "does not hold the text once"),
        (lambda t: t.update(decoder={"type": "Fuse"}), "decoder"),
        (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}, decoder={"type": "Metaspace"}), "a pre-tokenizer"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "without a prefix space"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"].pop(0), "does not cut text"),
        (lambda t: t["added_tokens"][0].update(id=-1), "has no id"),
        (lambda t: t["added_tokens"][0].update(id=0), "same id"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "isolating"),
        (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "("}), "not a regular expression"),
        (
            lambda t: t["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Punctuation"}),
            "a Punctuation pre-tokenizer",
        ),
        (lambda t: t["model"]["vocab"].update({"好": 512}), "not spelled in bytes"),
        (lambda t: t["model"]["vocab"].update({"aaaaaaaa": 9999}), "no token with id 512"),
        (lambda t: t["model"]["vocab"].pop("a"), "no token with id 97|not in its vocabulary"),
        (lambda t: t["model"]["merges"].append(["zzzz", "q"]), "'zzzz'"),
        (lambda t: t["model"]["merges"].append(["a", "b", "c"]), "not a tokenizer"),
        (lambda t: t.pop("model"), "not a tokenizer in Hugging Face's format"),
        (lambda t: t["model"].update(vocab=[1]), "not a tokenizer in Hugging Face's format"),
    ],
)
def test_what_cannot_be_represented_is_refused(trained: Artifact, tmp_path: Path, edit: Any, message: str) -> None:
    change(trained.path, tmp_path / "t", edit)
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(tmp_path / "t")
    assert str(tmp_path) in str(caught.value)


def test_missing_truncated_and_huge_files_are_told(
    trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((trained.path / "tokenizer.json").read_bytes()[:1000])
    with pytest.raises(UserError, match="can't be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="can't be read"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr("fromzero.tokenizer.foreign.MAX_FILE_BYTES", 10)
    with pytest.raises(UserError, match="larger than 10 bytes"):
        load_tokenizer(tmp_path)


def test_a_special_token_that_is_spelled_like_another_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="spelled like"):
        BPETokenizer(byte_vocabulary([]), [], special_tokens={"a": 256}).save(tmp_path)
