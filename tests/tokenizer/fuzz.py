"""Texts that tokenizers are asked to agree about, and the question itself."""

import random
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import tokenizers
import transformers

from fromzero.tokenizer import Tokenizer, load_tokenizer

CURIOUS = [
    "", " ", "  \n\n\t ", "\r\n\r\n  a\r\nb", "a" * 300, " " * 300, "I'LL we'Ve 'S 'ſ", "x=1234567890", "ΑΣ Σίσυφος",
    "👨‍👩‍👧‍👦 🏳️‍🌈 ❤️ 👍🏽 🇨🇳", "e\u0301\u0301\u0301 n\u0303o", "ภาษาไทยเป็นภาษาที่สวยงาม", "اَلسَّلَامُ عَلَيْكُمْ", "हिन्दी में लिखा",
    "从零开始，训练3.14个模型！", "\u3000\u2028\u2029\x85\x1c\x1d\x00\x7f", "½²³ Ⅷ ٣٤٥ 一二三", "\ufeffBOM\u200b\u200d",
    "\U0010fff0\ue000\U000e0041", "ᄀ각힣 ﷽ ﬁ ǅ", "İstanbul naïve Ångström", "▁a ▁▁ b▁", "[MASK] ##ing <pad>",
]  # fmt: skip


def fuzzed(count: int = 400, old: bool = False) -> list[str]:
    """Texts of assigned characters from all planes of Unicode, in runs from one script and mixed, with blanks.

    old: only characters of Unicode 3.2 (2002), which all libraries' tables have, and have alike.
    """
    choose = random.Random(0)
    codes = [*choose.sample(range(0xD800), 6000), *choose.sample(range(0xE000, 0x110000), 6000)]
    known = [c for c in map(chr, codes) if unicodedata.category(c) not in ("Cn", "Co")]
    if old:
        known = [c for c in known if unicodedata.category(c) == unicodedata.ucd_3_2_0.category(c)]
    common = " \n\r\t'0123456789abcABC.,-_sdtmlre你好，。é"
    texts = []
    for _ in range(count):
        start = choose.randrange(len(known))
        alphabet = choose.choice([known, known[start : start + 40], list(common)]) + list(common)
        texts.append("".join(choose.choices(alphabet, k=choose.choice([1, 5, 40, 200]))))
    return texts


def assert_opens_alike(tokenizer: Tokenizer, folder: Path, texts: Iterable[str]) -> None:
    """What is saved gives the same ids here again, in `tokenizers`, and in `transformers`."""
    tokenizer.save(folder)
    ours, theirs = load_tokenizer(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    hub = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(tokenizer)
    assert len(hub) == theirs.get_vocab_size() == ours.vocab_size == tokenizer.vocab_size
    for text in texts:
        ids = tokenizer.encode(text, special="allow")
        assert ours.encode(text, special="allow") == theirs.encode(text, add_special_tokens=False).ids == ids, repr(
            text
        )
        around = tokenizer.encode(text, special="allow", add_special_tokens=True)
        assert hub.encode(text, add_special_tokens=True) == around, repr(text)
        assert theirs.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids), repr(text)
    ours.save(folder / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / "again" / name).read_bytes() == (folder / name).read_bytes()
