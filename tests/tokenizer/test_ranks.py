"""Rank files: the same ids as in tiktoken, there and back; what it can't hold is refused."""

import base64
import itertools
import random
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from fromzero.errors import UserError
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.characters import ByteTokenizer
from fromzero.tokenizer.last_pairs import last_pairs
from fromzero.tokenizer.patterns import PATTERNS
from fromzero.tokenizer.ranks import END_OF_TEXT, load_ranks, save_ranks
from tests.tokenizer.fuzz import CURIOUS, assert_opens_alike, fuzzed

TEXTS = [*CURIOUS, *fuzzed(100, old=True), "abababcabc cab bca  aaaaab"]


@pytest.fixture(autouse=True)
def _read_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # tiktoken keeps files that it has read, by name


def in_tiktoken(file: Path, tokenizer: BPETokenizer) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        file.stem,
        pat_str=tokenizer.pattern,
        mergeable_ranks=load_tiktoken_bpe(str(file)),
        special_tokens=tokenizer.special_tokens,
    )


@pytest.fixture(params=["gpt2", "cl100k", "o200k"])
def saved(request: pytest.FixtureRequest, tokenizer: BPETokenizer, tmp_path: Path) -> Path:
    """A trained tokenizer as a rank file, named after its pattern."""
    file = tmp_path / f"{request.param}.tiktoken"
    save_ranks(BPETokenizer(tokenizer.vocabulary, tokenizer.merges, request.param), file)
    return file


def test_ids_equal_those_of_tiktoken(saved: Path, tmp_path: Path) -> None:
    specials = {END_OF_TEXT: 1000, "<|hole|>": 1010}
    ours = load_ranks(saved, saved.stem, specials)
    theirs = in_tiktoken(saved, ours)
    assert ours.vocab_size == theirs.n_vocab == 1011
    assert ours.end_of_text == 1000
    for text in [*TEXTS, f"a{END_OF_TEXT}b<|hole|>"]:
        assert ours.encode(text, special="allow") == theirs.encode(text, allowed_special="all"), repr(text)
        assert ours.encode(text) == theirs.encode_ordinary(text), repr(text)
    ours.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    with pytest.raises(UserError, match="1005 is out of range"):
        ours.decode([1005])


def test_random_ranks_merge_as_in_tiktoken(tmp_path: Path) -> None:
    choose = random.Random(0)
    for number in range(40):
        words = {"".join(choose.choices("abc", k=choose.randint(2, 6))).encode() for _ in range(20)}
        tokens = [*(bytes([byte]) for byte in range(256)), *words]
        choose.shuffle(tokens)
        file = tmp_path / f"{number}.tiktoken"
        file.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(token), i) for i, token in enumerate(tokens)))
        ours = load_ranks(file, "gpt2")
        theirs = in_tiktoken(file, ours)
        texts = ["".join(choose.choices("abc ", k=200)) for _ in range(10)]
        assert [ours.encode(text) for text in texts] == [theirs.encode(text) for text in texts]
        save_ranks(ours, tmp_path / "again.tiktoken")
        assert load_tiktoken_bpe(str(tmp_path / "again.tiktoken")) == load_tiktoken_bpe(str(file))
        if number < 4:
            assert_opens_alike(load_ranks(file, "gpt2", {END_OF_TEXT: len(tokens)}), tmp_path / str(number), texts)


def merged_plainly(token: str, ranks: dict[str, int]) -> tuple[int, int] | None:
    """The last two parts of a token whose symbols are merged by rank."""
    parts = list(token)
    while len(parts) > 2:
        best = min((ranks.get(a + b, 99), i) for i, (a, b) in enumerate(itertools.pairwise(parts)))
        if best[0] == 99:
            return None
        parts[best[1] : best[1] + 2] = ["".join(parts[best[1] : best[1] + 2])]
    return (ranks[parts[0]], ranks[parts[1]]) if len(parts) == 2 else None


@settings(max_examples=500)
@given(
    st.lists(st.text("ab", min_size=2, max_size=6), unique=True, max_size=12).flatmap(
        lambda t: st.permutations(["a", "b", *t])
    )
)
def test_last_pairs_are_those_of_merging(tokens: list[str]) -> None:
    ranks = {token: i for i, token in enumerate(tokens)}
    assert last_pairs(tokens) == [merged_plainly(token, ranks) for token in tokens]


def test_the_set_is_told_by_the_name_of_the_file(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    named = tmp_path / "cl100k_base.tiktoken"
    named.write_bytes(data)
    ours = load_tokenizer(named)
    assert ours.special_tokens["<|endofprompt|>"] == 100276
    assert ours.vocab_size == 100277
    assert isinstance(ours, BPETokenizer)
    assert ours.pattern == PATTERNS["cl100k"]
    assert load_ranks(saved, name="o200k_base").vocab_size == 200019
    (tmp_path / "cl200k_base.tiktoken").write_bytes(data)
    with pytest.raises(UserError, match=r"load_ranks\(path, pattern, special_tokens\); did you mean 'cl100k_base'"):
        load_tokenizer(tmp_path / "cl200k_base.tiktoken")


def test_what_tiktoken_would_merge_otherwise_is_not_saved(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    vocabulary, merges = tokenizer.vocabulary, tokenizer.merges
    swapped = [merges[1], merges[0], *merges[2:]]
    for refused, message in (
        (BPETokenizer(vocabulary, swapped), "in the order of ids"),
        (BPETokenizer(vocabulary, merges[:-1]), "does not"),
        (BPETokenizer(vocabulary, merges, ["gpt2", r"\d"]), "several patterns"),
        (ByteTokenizer(), "kind 'byte'"),
    ):
        with pytest.raises(UserError, match=message):
            save_ranks(refused, tmp_path / "refused.tiktoken")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:-1], lines[-1][:3]],
        lambda lines: [*lines, b"IQ== 5"],  # a token that is there already
        lambda lines: [*lines, b"YWJjZGVm 3"],  # an id that is there already
        lambda lines: [*lines, b"YWJjZGVm -3"],
        lambda lines: [*lines, b"YWJjZGVm 99999999999"],
        lambda lines: [*lines, b"YWJjZGVm 1_0"],
        lambda lines: [*lines, b"YW=JjZ 999"],
        lambda lines: [*lines, b" 999"],
        lambda lines: [*lines, base64.b64encode(b"a" * 20000) + b" 999"],
        lambda lines: lines[5:],
        lambda lines: [],
    ],
)
def test_damaged_files_are_told(saved: Path, damage: object) -> None:
    saved.write_bytes(b"\n".join(damage(saved.read_bytes().splitlines())))  # type: ignore[operator]
    with pytest.raises(UserError, match=str(saved)):
        load_ranks(saved, "gpt2")
