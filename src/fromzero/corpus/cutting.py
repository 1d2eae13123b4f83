"""A long text -> parts, cut where a reader would: after a paragraph, else a line, else a space, else anywhere."""

from collections.abc import Iterable, Iterator

_BOUNDARIES = ("\n\n", "\n", "。", " ")


def cut(blocks: Iterable[str], limit: int | None) -> Iterator[str]:
    """Parts of at most `limit` characters of a text that arrives in blocks. Joined, they are the text again.

    A part is at least half of the limit long (but for the last), so a boundary right at its start is not used.
    limit: None gives the whole text as one part.
    """
    if limit is None:
        yield "".join(blocks)
        return
    kept = ""
    for block in blocks:
        kept += block
        start = 0
        while len(kept) - start > limit:
            end = boundary(kept, start, start + limit)
            yield kept[start:end]
            start = end
        kept = kept[start:]
    if kept:
        yield kept


def boundary(text: str, start: int, end: int) -> int:
    """The best place to end a part of text[start:end]: after the last paragraph, line, sentence or space."""
    for mark in _BOUNDARIES:
        if (found := text.rfind(mark, start + (end - start) // 2, end)) >= 0:
            return found + len(mark)
    return end
