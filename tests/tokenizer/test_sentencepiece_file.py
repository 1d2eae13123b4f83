"""SentencePiece's models: the same ids as in the library, here and saved; damaged files are told."""

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.sentencepiece_bpe import SentencePieceBPETokenizer
from fromzero.tokenizer.sentencepiece_file import Piece, Settings, from_pieces, load_sentencepiece
from tests.tokenizer.conftest import CHINESE, ENGLISH
from tests.tokenizer.fuzz import CURIOUS, assert_opens_alike, fuzzed

TEXTS = [
    *CURIOUS,
    *fuzzed(60, old=True),
    *ENGLISH.splitlines()[:20],
    "  two  blanks ",
    "▁",
    " ▁ ",
    "<sep>a <sep>",
    "<s>",
]
TRAINING = [ENGLISH, CHINESE, "a  b   c d " * 9, "naïve ﬁ Å ㈱ １２ ｶﾞ " * 3]


def train(folder: Path, **options: Any) -> Path:
    """A small model of the library's own making."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in TRAINING for line in text.splitlines()]),
        model_writer=written,
        minloglevel=2,
        hard_vocab_limit=False,
        **{"vocab_size": 400 + 256 * bool(options.get("byte_fallback")), "num_threads": 1} | options,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    return folder / "tokenizer.model"


LLAMA2 = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama2": LLAMA2,
    "gemma": LLAMA2 | {"add_dummy_prefix": False, "user_defined_symbols": ["<sep>", "▁▁"]},
    "unknown": {"model_type": "bpe", "character_coverage": 0.98},
    "nfkc": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc", "byte_fallback": True},
    "unigram": {"model_type": "unigram", "pad_id": 3},
    "unigram bytes": {"model_type": "unigram", "byte_fallback": True, "remove_extra_whitespaces": False},
    "unigram folded": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf", "add_dummy_prefix": False},
    "char": {"model_type": "char", "vocab_size": 200},
}


@pytest.mark.parametrize("name", MODELS)
def test_ids_equal_those_of_the_library(name: str, tmp_path: Path) -> None:
    file = train(tmp_path, **MODELS[name])
    ours, theirs = load_tokenizer(file), sentencepiece.SentencePieceProcessor(model_file=str(file))
    assert ours.vocab_size == len(theirs)
    assert ours.roles["unk_token"] == "<unk>"
    assert ours.special_tokens["</s>"] == theirs.eos_id()
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, repr(text)
        if theirs.unk_id() not in ids:
            assert ours.decode(ids) == theirs.decode(ids), repr(text)


@pytest.mark.parametrize("name", ["llama2", "gemma", "unknown", "unigram bytes"])
def test_saved_it_opens_alike(name: str, tmp_path: Path) -> None:
    model = {"normalization_rule_name": "identity"} | MODELS[name]
    assert_opens_alike(load_tokenizer(train(tmp_path, **model)), tmp_path / "saved", TEXTS)


def test_symbols_behind_a_blank_that_is_put_first_can_not_be_saved(tmp_path: Path) -> None:
    ours = load_tokenizer(train(tmp_path, **LLAMA2, user_defined_symbols=["<sep>"]))
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in ("<sep>a<sep> b", "a<sep>"):
        assert ours.encode(text) == theirs.encode(text)
    with pytest.raises(UserError, match="'<sep>' is looked for after a blank"):
        ours.save(tmp_path)


def pieces(*more: Piece) -> list[Piece]:
    return [Piece("<unk>", 0, 2), Piece("<s>", 0, 3), *(Piece(c, -9, 1) for c in "▁ab"), *more]


def test_runs_of_the_same_score_grow_from_the_left() -> None:
    blanks = [Piece("▁" * n, -1e9, 1) for n in (2, 4, 3, 5)]
    ours = from_pieces(pieces(*blanks), Settings("bpe", add_dummy_prefix=False, remove_extra_whitespaces=False))
    lengths = [len(ours.token_bytes(i)) for i in ours.encode(" " * 13)]
    assert lengths == [5, 5, 3]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([Piece("ab", -1, 1), Piece("ba", -1, 1)], "'ab' and 'ba' have the same score"),
        ([Piece("ab", -1, 5)], "'ab' of type 5"),
        ([Piece("a", -1, 1)], "one twice"),
        ([Piece("", -1, 1)], "empty piece"),
        ([Piece("<unk2>", -1, 2)], "2 unknown pieces"),
        ([Piece("<0x41>", -1, 6)], "lacks the piece <0x00>"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(more: list[Piece], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_pieces(pieces(*more), Settings("bpe"))


def test_merges_that_do_not_fit_are_refused() -> None:
    for merges, unk, message in (
        ([(0, 9)], None, "not in the vocabulary"),
        ([(1, 0)], None, "not in the vocabulary"),
        ([(0, 1), (0, 1)], None, "was there before"),
        ([], "<unk>", "unknown token"),
    ):
        with pytest.raises(UserError, match=message):
            SentencePieceBPETokenizer({"a": 0, "b": 1, "ab": 2}, merges, unk)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "word"}, "of the type word"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
    ],
)
def test_what_cannot_be_represented_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(train(tmp_path, **options))
    assert str(tmp_path) in str(caught.value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("model"), model_type="bpe", vocab_size=150)


def test_every_truncation_is_told(model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    whole = data.index(b"identity") if b"identity" in data else data.index(b"nmt_nfkc")  # in what has to be there
    for size in itertools.chain(range(300), range(300, whole, 97)):
        (tmp_path / "cut.model").write_bytes(data[:size])
        with pytest.raises(UserError):
            load_sentencepiece(tmp_path / "cut.model")


@settings(max_examples=200)
@given(st.data())
def test_flipped_bytes_never_end_in_anything_but_a_user_error(model: Path, data: st.DataObject) -> None:
    damaged = bytearray(model.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = model.with_name("damaged.model")
    file.write_bytes(damaged)
    try:
        load_sentencepiece(file).encode("a b, 从零")
    except UserError as error:
        assert "damaged.model" in str(error)  # noqa: PT017
