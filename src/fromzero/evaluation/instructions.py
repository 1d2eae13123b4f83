"""Instructions that code can check."""

from collections.abc import Mapping
from random import Random
from typing import Any


def draw_instructions(random: Random) -> tuple[str, list[dict[str, Any]]]:
    """A prompt and the instructions in it."""
    raise NotImplementedError


def read_ifeval(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The instructions of a line of IFEval."""
    raise NotImplementedError
