"""Small things that several tests of tuning need."""

from typing import Any


def asked(text: str) -> list[dict[str, Any]]:
    """A conversation with a question."""
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict[str, Any]]:
    """An answer."""
    return [{"role": "assistant", "content": text}]
