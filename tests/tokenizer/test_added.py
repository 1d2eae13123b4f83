"""Added tokens: found before all else, with the blanks that they take, under each policy."""

import pytest

from fromzero.errors import UserError
from fromzero.tokenizer.added import AddedToken, AddedTokens
from fromzero.tokenizer.characters import ByteTokenizer
from fromzero.tokenizer.stream import StreamDecoder


def cut(text: str, allow_special: bool = True, **tokens: AddedToken) -> list[str | int]:
    found = AddedTokens(tokens).cut(text, allow_special)
    return [stretch.token.id if stretch.token else stretch.text for stretch in found]


def test_the_longest_is_found_and_special_ones_only_where_allowed() -> None:
    tokens = {"ab": AddedToken(1, special=False), "abc": AddedToken(2), "c": AddedToken(3, special=False)}
    assert cut("abcab c", **tokens) == ["", 2, "", 1, " ", 3, ""]
    assert cut("abcab", allow_special=False, **tokens) == ["abc", 1, ""]
    assert cut("") == [""]


def test_blanks_go_with_a_token_that_takes_them() -> None:
    assert cut("a \t\u3000x\u3000 b", x=AddedToken(1, lstrip=True)) == ["a", 1, "\u3000 b"]
    assert cut("a x \n b", x=AddedToken(1, rstrip=True)) == ["a ", 1, "b"]
    assert cut("x  x", x=AddedToken(1, lstrip=True, rstrip=True)) == ["", 1, "", 1, ""]


def test_a_single_word_stands_alone() -> None:
    assert cut("x ax xé x.x", x=AddedToken(1, single_word=True)) == ["", 1, " ax xé ", 1, ".", 1, ""]


def test_tokens_that_are_not_special_are_found_under_every_policy_and_stay_in_decoded_text() -> None:
    tokenizer = ByteTokenizer({"<s>": 256, "<tool>": 257})
    tokenizer.set_added_tokens({"<tool>": AddedToken(257, special=False)})
    assert tokenizer.special_tokens == {"<s>": 256}
    text, ids = "a<tool><s>", [97, 257, *b"<s>"]
    assert tokenizer.encode(text) == tokenizer.encode_ordinary(text) == tokenizer.encode_array(text).tolist() == ids
    assert tokenizer.encode_batch([text]) == [ids]
    assert list(tokenizer.encode_iterable(["a<to", "ol><s>"])) == ids
    assert tokenizer.encode(text, special="allow") == [97, 257, 256]
    assert tokenizer.decode([256, 257], skip_special_tokens=True) == "<tool>"
    assert StreamDecoder(tokenizer, skip_special_tokens=True).feed([256, 257]) == "<tool>"
    with pytest.raises(UserError, match="<s> at character 7"):
        tokenizer.encode(text, special="refuse")
    with pytest.raises(UserError, match="has id 300"):
        tokenizer.set_added_tokens({"x": AddedToken(300)})
