"""One JSON object a line, on standard error. Nothing that a user wrote can look like a line of its own: control
characters, and all beyond ASCII, are escaped. Texts and keys are never written."""

import json
import logging
import sys
import time
from typing import Any


def log(event: str, **fields: Any) -> None:
    """Write a line: the time (UTC), what happened, and whatever is known about it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(json.dumps({"time": now, "event": event, **fields}, default=str) + "\n")
    sys.stderr.flush()


class LogHandler(logging.Handler):
    """What libraries have to say, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; of an exception, its kind."""
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        log("library", level=record.levelname.lower(), message=record.getMessage()[:500], exception=kind)
