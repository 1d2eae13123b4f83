"""What counts as text: anything that has a UTF-8 form."""

from fromzero.errors import UserError


def check_unicode(text: str, what: str = "the text") -> None:
    """Raise UserError with its position when the text holds a lone surrogate, which is half of a character."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} has a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which is no "
            "character; read the text with the right encoding, or with errors='replace'"
        ) from None
