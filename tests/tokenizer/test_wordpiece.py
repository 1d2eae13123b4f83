"""WordPiece: the longest match from the left, as in BERT and the `tokenizers` library."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.normalize import bert
from fromzero.tokenizer.wordpiece import (
    ROLES,
    WordPieceTokenizer,
    cut_words,
    load_vocab_txt,
    save_vocab_txt,
)
from fromzero.tokenizer.wordpiece_learn import learn_wordpieces
from tests.tokenizer.fuzz import CURIOUS, assert_opens_alike, fuzzed

TEXT = "unaffable running runner's runs 1234 从零开始 hello, affordable naive İstanbul. unaffordable abcABC 你好 σ"
TEXTS = [*CURIOUS, *fuzzed(old=True), TEXT, "x" * 100 + " " + "x" * 101]


def make(**settings: Any) -> WordPieceTokenizer:
    """A tokenizer that has all that two of the words hold, so that all others are cut or unknown."""
    pieces = [
        *map(chr, range(33, 127)),
        *(f"##{chr(i)}" for i in range(97, 123)),
        "un",
        "##aff",
        "##able",
        "run",
        "##s",
    ]
    pieces += ["你", "好", "零", "e", "##e", "##é", "é", "i", "σ", "##σ", "runs", "##12", "12", "##34", "##"]
    tokens = [*ROLES.values(), *dict.fromkeys(pieces)]
    ids = {token: i for i, token in enumerate(tokens)}
    specials = {token: ids.pop(token) for token in ROLES.values()}
    normalizer = bert(**settings) if "normalizer" not in settings else settings["normalizer"]
    around = {"prefix": ["[CLS]"], "suffix": ["[SEP]"]}
    return WordPieceTokenizer(ids, "[UNK]", specials, roles=ROLES, normalizer=normalizer, **around)


def test_the_longest_match_is_taken_from_the_left() -> None:
    tokenizer = make()

    def tokens(text: str) -> list[str]:
        return [tokenizer.token_bytes(i).decode() for i in tokenizer.encode(text, add_special_tokens=True)]

    assert tokens("Unaffable, RUNS!") == [" [CLS]", " un", "aff", "able", " ,", " runs", " !", " [SEP]"]
    assert tokens("123412 没") == [" [CLS]", " 12", "34", "12", " [UNK]", " [SEP]"]
    assert tokenizer.decode(tokenizer.encode("Unaffable runs")) == "unaffable runs"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lowercase": False},
        {"lowercase": False, "strip_accents": True, "handle_chinese_chars": False},
        {"clean_text": False, "strip_accents": False},
        {"normalizer": None},
    ],
)
def test_other_libraries_agree(settings: dict[str, Any], tmp_path: Path) -> None:
    assert_opens_alike(make(**settings), tmp_path, TEXTS)


@pytest.mark.parametrize("lowercase", [True, False])
def test_vocab_txt_opens_as_in_transformers(lowercase: bool, tmp_path: Path) -> None:
    save_vocab_txt(make(), tmp_path / "vocab.txt")
    ours = load_vocab_txt(tmp_path / "vocab.txt", lowercase)
    theirs = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=lowercase)
    for text in TEXTS:
        assert ours.encode(text, special="allow", add_special_tokens=True) == theirs.encode(text), repr(text)
    assert ours.roles == ROLES
    save_vocab_txt(ours, tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "vocab.txt").read_bytes()


def test_a_broken_vocab_txt_is_told(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    for content, message in (("[UNK]\na\na\n", r"txt:2 has the token 'a', which line 3"), ("a\nb\n", r"lacks \[UNK\]")):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            load_vocab_txt(file)
    file.write_bytes(b"[UNK]\n\xff\n")
    with pytest.raises(UserError, match="not UTF-8"):
        load_vocab_txt(file)
    with pytest.raises(UserError, match="can't say that '<s>' is a special token"):
        save_vocab_txt(WordPieceTokenizer({}, special_tokens={"[UNK]": 0, "<s>": 1}), file)
    with pytest.raises(UserError, match="holds a line end"):
        save_vocab_txt(WordPieceTokenizer({"a\nb": 0}, special_tokens={"[UNK]": 1}), file)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer that is not BERT's"),
        ({"decoder": None}, "decoder that is not WordPiece"),
        ({"normalizer": {"type": "Nmt"}}, "Nmt normalizer"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "not a tokenizer in Hugging Face's format"),
    ],
)
def test_what_cannot_be_represented_is_refused(edit: dict[str, Any], message: str, tmp_path: Path) -> None:
    make().save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


@given(st.lists(st.text("abcd", min_size=1, max_size=8), min_size=1), st.integers(8, 40))
def test_learned_merges_are_those_of_the_plain_algorithm(words: list[str], size: int) -> None:
    counts = Counter(words)
    pieces = learn_wordpieces(counts, size)
    assert pieces == plain_wordpieces(counts, size)
    ids = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = WordPieceTokenizer(ids, special_tokens={"[UNK]": len(ids)})
    assert all(tokenizer.special_tokens["[UNK]"] not in tokenizer.encode(word) for word in counts)


def plain_wordpieces(counts: Counter[str], size: int) -> list[str]:
    """Count all pairs, merge the most frequent one everywhere, start over."""
    split = {word: [word[0], *(f"##{character}" for character in word[1:])] for word in counts}
    pieces = sorted({piece for parts in split.values() for piece in parts})
    while len(pieces) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs or max(pairs.values()) < 2:
            break
        pair = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pair[0] + pair[1][2:] not in pieces:
            pieces.append(pair[0] + pair[1][2:])
        for parts in split.values():
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == pair:
                    parts[i : i + 2] = [pair[0] + pair[1][2:]]
                i += 1
    return pieces


def test_without_room_there_are_the_characters_only() -> None:
    assert learn_wordpieces({"aab": 1}, 2) == ["##a", "##b", "a"]


def test_words_are_cut_as_bert_cuts_them() -> None:
    assert cut_words("don't  stop—now $5 _x_") == ["don", "'", "t", "stop", "—", "now", "$", "5", "_", "x", "_"]
