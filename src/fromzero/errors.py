"""The one error style: what was wrong, where, and what to do about it, in one sentence and without a traceback."""

import difflib
import errno
from collections.abc import Iterable

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What an OSError has as its `errno` when there is no room to write."""


class UserError(Exception):
    """Something that the user can put right. The command line prints it as it is and exits with 2."""


class Interrupted(BaseException):
    """A signal asked for a stop, and the work so far is saved. Carries the message and the exit code to end with."""

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint that names the closest valid spelling: `; did you mean 'layers'?`, or all choices when none is close."""
    valid = sorted(valid)
    # A key typed without its group ("learning_rate" for "optimizer.learning_rate") is as likely as a wrong letter.
    close = difflib.get_close_matches(name, valid, n=1) or [v for v in valid if v.split(".")[-1] == name.split(".")[-1]]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid names are {', '.join(valid)}" if valid else ""


def missing_extra(package: str, extra: str) -> UserError:
    """The error for an optional package that is not installed, with the exact command that installs it."""
    return UserError(f"the package '{package}' is needed here; install it with: pip install 'fromzero[{extra}]'")
