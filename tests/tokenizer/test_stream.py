from hypothesis import given
from hypothesis import strategies as st

from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.stream import StreamDecoder


@given(st.lists(st.integers(0, 511)), st.integers(1, 5))
def test_pieces_join_to_the_whole_for_any_ids(tokenizer: Tokenizer, ids: list[int], step: int) -> None:
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.feed(ids[i : i + step]) for i in range(0, len(ids), step)]
    assert "".join([*pieces, decoder.flush()]) == tokenizer.decode(ids)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_half_a_character_is_never_emitted(tokenizer: Tokenizer, text: str) -> None:
    decoder = StreamDecoder(tokenizer)
    said = ""
    for byte in text.encode():  # ids 0 to 255 are the bytes
        said += decoder.feed([byte])
        assert text.startswith(said)
    assert said == text
    assert decoder.flush() == ""


def test_flush_gives_up_on_an_unfinished_character_and_starts_anew(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer, skip_special_tokens=True)
    assert decoder.feed([0xE4, 0xBD, tokenizer.end_of_text]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.feed([0xE4, 0xBD, 0xA0]) == "你"
