"""Lists that the user gives: domains, parts of addresses and words of documents to drop.

A list is a text file of UTF-8, an entry a line; blank lines and lines that begin with '#' are passed over. All words
are found in one pass over the text, whose time does not depend on how many there are (a tree of bytes).
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fromzero.corpus.document import LISTED_ADDRESS, LISTED_DOMAIN, LISTED_WORDS
from fromzero.errors import UserError

MAX_LIST_BYTES = 64_000_000
ANY = "any"


@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of what to drop."""

    domains: tuple[Path, ...] = ()
    """Files of domains; subdomains are meant with them: example.com drops www.example.com and not myexample.com."""
    addresses: tuple[Path, ...] = ()
    """Files of strings that an address (URL) may not contain, in lower case or not."""
    words: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    """Language -> file of words and phrases; those under 'any' are looked for in every document. A word of letters
    stands alone; ideographs, kana, Thai and all else whose UTF-8 takes three bytes may stand inside other text."""
    max_words: float = 0.0
    """Largest share of the characters that are not blank which listed words may make up. 0: none may occur."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_words <= 1:
            raise UserError(f"lists.max_words is {self.max_words}; it takes a share between 0 and 1")


class Blocklist:
    """The lists, read and ready. Raises UserError for a file that can't be read."""

    def __init__(self, settings: Lists) -> None:
        self.domains = frozenset(map(_host, _entries(settings.domains)))
        self.addresses = Finder(_entries(settings.addresses), alone=False)
        self.words = {language: Finder(_entries([path]), alone=True) for language, path in settings.words.items()}
        self.max_words = settings.max_words

    def judge(self, url: str, text: str, language: str) -> str | None:
        """The first reason to drop a document, or None to keep it. url: may be empty."""
        host = _host(url)
        while host:
            if host in self.domains:
                return LISTED_DOMAIN
            host = host.partition(".")[2]
        if url and self.addresses.covered(url):
            return LISTED_ADDRESS
        found = sum(self.words[key].covered(text) for key in {language, ANY} & set(self.words))
        return LISTED_WORDS if found and found > self.max_words * len("".join(text.split())) else None


class Finder:
    """Words to be found in texts, without regard to case. alone: words of letters are not found inside others."""

    def __init__(self, words: Iterable[str], alone: bool) -> None:
        from fromzero.kernels.tree import MAX_LETTERS, tree

        encoded = [word.encode("utf-8", "replace") for word in sorted({word.lower() for word in words})]
        self.starts = np.cumsum([0, *map(len, encoded)])
        if self.starts[-1] >= MAX_LETTERS:
            raise UserError(f"a list has {self.starts[-1]:,} bytes of words; up to {MAX_LETTERS:,} can be looked for")
        self.letters = np.frombuffer(b"".join(encoded) or b"\0", np.uint8)
        self.alone = alone
        self.single = np.full(256, -1, np.int32)
        for number, word in enumerate(encoded):
            if len(word) == 1:
                self.single[word[0]] = number
        self.tree, self.shorter = tree(self.letters, self.starts, np.ones(len(encoded), np.bool_))

    def covered(self, text: str) -> int:
        """Characters in listed words; where they overlap, the first and longest counts."""
        from fromzero.kernels.ngrams import covered

        data = np.frombuffer(text.lower().encode("utf-8", "replace"), np.uint8)
        found: int = covered(data, self.alone, self.starts, self.single, self.shorter, *self.tree)
        return found


def _entries(paths: Iterable[Path]) -> list[str]:
    entries: list[str] = []
    for path in paths:
        try:
            if path.stat().st_size > MAX_LIST_BYTES:
                raise UserError(f"{path} has more than {MAX_LIST_BYTES:,} bytes; a list holds an entry a line")
            lines = map(str.strip, path.read_text("utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} can't be read ({error}); name a text file in UTF-8 with an entry a line"
            ) from error
        entries += [line for line in lines if line and not line.startswith("#")]
    return entries


@functools.lru_cache(1024)
def _host(url: str) -> str:
    """The host of an address, or of one without 'https://', in the form in which domains are registered."""
    found = re.match(r"(?:[a-z][a-z0-9+.-]*:)?(?://)?(?:[^/?#@]*@)?([^/?#:]*)", url.strip()[:2000].lower())
    host = found[1].strip(".") if found else ""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host
