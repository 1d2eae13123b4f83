"""Every word of a report in two languages, side by side in words.tsv, so that neither can lack what the other has."""

from importlib import resources
from typing import Literal

Language = Literal["en", "zh"]


def _read() -> dict[str, tuple[str, str]]:
    lines = resources.files("fromzero.explain").joinpath("words.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {key: (english, chinese) for key, english, chinese in rows}


TABLE = _read()
"""Key -> English, Chinese; {names} are filled in by the caller."""


class Words:
    """The words of one language."""

    def __init__(self, language: Language) -> None:
        self.language: Language = language
        self._column = ("en", "zh").index(language)

    def __call__(self, key: str, **values: str) -> str:
        """The words for a key, with what is given filled in."""
        return TABLE[key][self._column].format(**values)

    def name(self, group: str, value: str) -> str:
        """The name of a value of a group ('language', 'reason'); a value without one is its own name."""
        return self(f"{group}.{value}") if f"{group}.{value}" in TABLE else value
