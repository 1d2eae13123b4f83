"""Whether a text can be got back from its ids, and what it costs to spell what they don't hold.

An unknown token says nothing about the text it stands for, so it is cheap to predict: figures over it would flatter
the tokenizers that know least. With the bytes it stands for behind it, and the byte 0xFF, which UTF-8 never has, as
their end, ids are a code for the text again; that of other tokenizers compares with it. Where a normalizer changed the
text, or blanks are lost, there is no such code.
"""

import itertools
from collections.abc import Sequence

from fromzero.tokenizer import Tokenizer

_EDGE = b"\xff"


def bytes_to_spell(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> int | None:
    """Bytes that stand behind unknown tokens in that code, 0 where `ids` decode to `text`; None where there is none.

    ids: what `encode_ordinary` gives for the text.
    """
    cuts = [-1, *(place for place, i in enumerate(ids) if i == tokenizer.unknown_id), len(ids)]
    known = [tokenizer.decode_bytes(ids[start + 1 : stop]) for start, stop in itertools.pairwise(cuts)]
    if tokenizer.leading_space:
        known[0] = known[0].removeprefix(b" ")
    known[0] = _EDGE + known[0]
    known[-1] += _EDGE
    data, place = _EDGE + text.encode() + _EDGE, 0
    for stretch in known:
        start = data.find(stretch, place)
        if start < 0:
            return None
        place = start + len(stretch)
    return len(data) - sum(map(len, known)) + len(known) - 1
