"""What counts as text: anything that has a UTF-8 form."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from fromzero.errors import UserError

T = TypeVar("T")


def utf8(text: str, what: str = "the text") -> bytes:
    """The UTF-8 form. Raises UserError with its position for a lone surrogate, which is half of a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} has a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which is no "
            "character; read the text with the right encoding, or with errors='replace'"
        ) from None


def check_unicode(text: str, what: str = "the text") -> None:
    """Raise UserError as `utf8` does."""
    if not text.isascii():
        utf8(text, what)


def batches(texts: Iterable[T], least: int, size_of: Callable[[Any], int] = len) -> Iterator[list[T]]:
    """Texts, or what holds them, in groups of at least so many bytes or characters, but for the last one."""
    batch: list[T] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += size_of(text)
        if size >= least:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
