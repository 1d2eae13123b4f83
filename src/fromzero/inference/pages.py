"""Which page of the key/value cache belongs to whom: allocation, sharing, and finding what was computed before.

A page holds the keys and values of `size` tokens in all layers. Full pages are known by a chain of hashes: that of the
page before, then this page's tokens; a chain begins with a salt, so that who has another salt can't find it (nor learn
from the time that an answer takes whether somebody asked the same). Found tokens are compared too: no collision can
give a wrong answer. Pages that nobody holds stay findable until they are taken again, the longest unused first.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class PageTable:
    """The pages of one sequence, in order, and the chain of hashes of those that are full."""

    salt: bytes = b""
    pages: list[int] = field(default_factory=list)
    chain: list[bytes] = field(default_factory=list)


class PagePool:
    """`count` pages of `size` tokens."""

    def __init__(self, count: int, size: int = 16) -> None:
        self.count, self.size = count, size
        self._holders = [0] * count
        self._unheld: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))  # the longest unused first
        self._found: dict[bytes, int] = {}
        self._known: dict[int, tuple[bytes, array[int]]] = {}

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._unheld)

    def reuse(self, table: PageTable, tokens: Sequence[int]) -> int:
        """Give an empty table the known pages that these tokens begin with; returns how many tokens those hold.

        Never all tokens: the last one is to be computed, for what comes after it.
        """
        assert not table.pages
        for start in range(0, len(tokens) - self.size, self.size):
            content = array("i", tokens[start : start + self.size])
            key = _key(table, content)
            page = self._found.get(key)
            if page is None or self._known[page][1] != content:
                break
            self._hold(page)
            table.pages.append(page)
            table.chain.append(key)
        return len(table.pages) * self.size

    def extend(self, table: PageTable, tokens: int) -> bool:
        """Make room for so many tokens in all; False, and nothing changed, when there are not enough free pages."""
        missing = -(-tokens // self.size) - len(table.pages)
        if missing > self.free:
            return False
        for _ in range(missing):
            page = next(iter(self._unheld))
            self._forget(page)
            self._hold(page)
            table.pages.append(page)
        return True

    def seal(self, table: PageTable, tokens: Sequence[int], computed: int) -> None:
        """Make the pages that the first `computed` of these tokens fill findable."""
        for index in range(len(table.chain), computed // self.size):
            content = array("i", tokens[index * self.size : (index + 1) * self.size])
            key, page = _key(table, content), table.pages[index]
            table.chain.append(key)
            if key not in self._found:  # else another page has the same already, and is as good
                self._found[key], self._known[page] = page, (key, content)

    def release(self, table: PageTable) -> None:
        """Hold its pages no more; the first of them will be found longest, and those that can't be are taken first."""
        for page in reversed(table.pages):
            self._holders[page] -= 1
            if not self._holders[page]:
                self._unheld[page] = None
                self._unheld.move_to_end(page, last=page in self._known)
        table.pages.clear()
        table.chain.clear()

    def forget_all(self) -> None:
        """Nothing that was computed before is found any more: weights have changed."""
        self._found.clear()
        self._known.clear()

    def _hold(self, page: int) -> None:
        self._holders[page] += 1
        self._unheld.pop(page, None)

    def _forget(self, page: int) -> None:
        if page in self._known:
            del self._found[self._known.pop(page)[0]]


def _key(table: PageTable, content: "array[int]") -> bytes:
    before = table.chain[-1] if table.chain else hashlib.sha256(table.salt).digest()
    return hashlib.sha256(before + content.tobytes()).digest()
