"""Reading tokenizer files from outside: limits before work, and one clear sentence for whatever is wrong."""

import contextlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fromzero.errors import UserError

MAX_FILE_BYTES = 256 << 20  # the largest published ones have some 30 MB
MAX_IDS = 1 << 24


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises UserError when it is missing, can't be read, or is larger than MAX_FILE_BYTES."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path} is larger than {MAX_FILE_BYTES} bytes; that can't be a tokenizer")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name a file or folder that holds a tokenizer") from None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error})") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as they are. Raises UserError as `read_file` does."""
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}; get it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError when it is none."""
    data = read_file(path)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error}); save the tokenizer again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object, not a {type(value).__name__}")
    return value


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a UserError that names the file; what: what it should be."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, ValueError, OverflowError, RecursionError, struct.error) as error:
        raise UserError(f"{path} is not {what} ({error!r}); get it again") from error
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
