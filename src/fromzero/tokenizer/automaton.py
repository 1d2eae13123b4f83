"""From a pre-token pattern to the table of a finite automaton that cuts text as the `regex` module does, but faster.

A pattern is read into a tree, the tree becomes a network of nodes (Thompson 1968), and sets of nodes become states, in
which the order of the nodes keeps what a backtracking engine prefers: earlier alternatives, longer repeats (Cox 2010,
"Regular expression matching in the wild"). Which characters `\\p{L}` or `[^\\s]` stand for is asked of the `regex`
module itself, once for all code points, so both know the same version of Unicode.

What is read: literals, classes, `.`, groups without capture, `(?i:...)`, alternatives, greedy and lazy repeats, looking
ahead by one character, and possessive repeats of one class where giving back would never help. For all else
`compile_automaton` returns None, and the `regex` module does the work.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from fromzero.kernels.flags import CUTS, MATCHES, SHIFT, STOPS

CODE_POINTS = 0x110000
_UNIFORM = 0x40000  # from here on only the beginning of plane 14 has characters of its own (Unicode 17)
MAX_NODES, MAX_STATES = 4000, 2000  # larger patterns are left to the `regex` module

_ATOM = re.compile(
    r"\\[pP](?:\{\^?[\w \-=:&]+\}|\w)"  # \p{L}
    r"|\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[sSdDwWrntfv]|[^\w\s])"
    r"|\[\^?\]?(?:\\[pP](?:\{\^?[\w \-=:&]+\}|\w)|\\[^pPNX]|\[:\^?\w+:\]|[^\]\\\[])*\]"  # [...]
    r"|[^\\\[\](){}?*+|^$]",
    re.DOTALL,
)
_REPEAT = re.compile(r"(?:([?*+])|\{(\d{1,3})(?:(,)(\d{1,3})?)?\})([?+]?)")


class _Unsupported(Exception):  # noqa: N818 (never seen outside)
    """The pattern needs a backtracking engine."""


@dataclass(frozen=True)
class Automaton:
    """What `kernels.scan` runs on."""

    classes: NDArray[np.uint8]
    """By code point, its class: characters of one class are alike to the pattern."""
    table: NDArray[np.uint32]
    """A row for each state (row 1 is the beginning), a column for each class and one for the end of the text. An entry
    has the flags of `kernels.scan` and, shifted, the first entry of the next state's row."""
    width: int
    """Entries in a row."""


def compile_automaton(pattern: str) -> Automaton | None:
    """The automaton of a pattern; None where it can't be one, because it looks behind, refers back or is too large."""
    try:
        reader = _Reader(pattern)
        tree = reader.read()
        classes, members = _character_classes(tuple(reader.atoms))
        network = _Network(members)
        start = network.add(tree, network.node("match"))
        return Automaton(classes, _flagged(_states(network, start)), members.shape[1] + 1)
    except _Unsupported:
        return None


# A tree: ("set", atom), ("look", atom, negated), ("end",), ("sequence", trees), ("choice", trees),
# ("repeat", tree, least, most or None, "" or "?" or "+").
_Tree = tuple[Any, ...]


class _Reader:
    """Recursive descent. `atoms` collects the classes of the pattern as expressions of the `regex` module."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0
        self.atoms: list[str] = []

    def read(self) -> _Tree:
        tree = self.choice(ignore_case=False)
        if self.at < len(self.pattern):
            raise _Unsupported
        return tree

    def choice(self, ignore_case: bool) -> _Tree:
        options = [self.sequence(ignore_case)]
        while self.take("|"):
            options.append(self.sequence(ignore_case))
        return ("choice", options)

    def sequence(self, ignore_case: bool) -> _Tree:
        trees: list[_Tree] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            trees.append(self.repeated(self.single(ignore_case, trees)))
        return ("sequence", trees)

    def single(self, ignore_case: bool, before: list[_Tree]) -> _Tree:
        for opening, inside in (("(?:", ignore_case), ("(?i:", True)):
            if self.take(opening):
                return self.closed(self.choice(inside))
        for opening, negated in (("(?!", True), ("(?=", False)):
            if self.take(opening):
                return self.closed(("look", self.atom(ignore_case), negated))
        if self.take("\\Z"):
            return ("end",)
        if self.take("$"):
            return self.dollar(before)
        return ("set", self.atom(ignore_case))

    def dollar(self, before: list[_Tree]) -> _Tree:
        """`$` also matches before a last line end, but not behind an endless repeat that takes line ends."""
        last = before[-1] if before else ("none",)
        endless = last[0] == "repeat" and last[1][0] == "set" and last[3] is None
        if endless and regex.fullmatch(self.atoms[last[1][1]], "\n"):
            return ("end",)
        raise _Unsupported

    def repeated(self, tree: _Tree) -> _Tree:
        match = _REPEAT.match(self.pattern, self.at)
        if match is None:
            return tree
        self.at = match.end()
        sign, least, comma, most, mode = match.groups()
        bounds = {"?": (0, 1), "*": (0, None), "+": (1, None)}.get(sign or "")
        if bounds is None:
            bounds = (int(least), (int(most) if most else None) if comma else int(least))
        if tree[0] in ("look", "end") or _REPEAT.match(self.pattern, self.at):
            raise _Unsupported
        return ("repeat", tree, *bounds, mode)

    def atom(self, ignore_case: bool) -> int:
        match = _ATOM.match(self.pattern, self.at)
        if match is None:
            raise _Unsupported
        self.at = match.end()
        text = f"(?i:{match.group()})" if ignore_case else match.group()
        if text not in self.atoms:
            self.atoms.append(text)
        return self.atoms.index(text)

    def closed(self, tree: _Tree) -> _Tree:
        if not self.take(")"):
            raise _Unsupported
        return tree

    def take(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) * found
        return found


@functools.cache
def _everything(all_of_them: bool) -> tuple[NDArray[np.int64], str]:
    """Code points, ascending, with the end of all behind them; and the characters.

    Unless all are asked for, a plane of which Unicode has assigned nothing, or all for private use, is tried by its
    first and its last characters.
    """
    points = np.arange(CODE_POINTS)
    if not all_of_them:
        low = points & 0xFFFF
        points = points[(points < _UNIFORM) | (points >> 12 == 0xE0) | (low == 0) | (low == 0x1000) | (low >= 0xFFFD)]
    return np.append(points, CODE_POINTS), points.astype(np.uint32).tobytes().decode("utf-32-le", "surrogatepass")


@functools.lru_cache(maxsize=16)
def _character_classes(atoms: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Code point -> class, and which classes each atom holds: bool (atoms, classes)."""
    points, everything = _everything(any(ord(c) >= _UNIFORM or c == "U" for atom in atoms for c in atom))
    spans = [np.array([m.span() for m in regex.finditer(f"(?:{atom})+", everything)] or [(0, 0)]) for atom in atoms]
    spans = [points[span] for span in spans]
    edges = np.unique(np.concatenate([[0, CODE_POINTS], *(span.ravel() for span in spans)]))
    starts = edges[:-1]  # of stretches in which all characters are alike
    inside = [np.searchsorted(s[:, 0], starts, "right") > np.searchsorted(s[:, 1], starts, "right") for s in spans]
    members, numbers = np.unique(np.array(inside), axis=1, return_inverse=True)
    if members.shape[1] > 250:
        raise _Unsupported
    return np.repeat(numbers.ravel().astype(np.uint8), np.diff(edges)), members


class _Network:
    """Nodes: ("set", members, next), ("look", members, at end, next), ("split", first, second), ("match",)."""

    def __init__(self, members: NDArray[np.bool_]) -> None:
        self.members = members
        self.nodes: list[list[Any]] = []

    def node(self, *parts: Any) -> int:
        if len(self.nodes) >= MAX_NODES:
            raise _Unsupported
        self.nodes.append(list(parts))
        return len(self.nodes) - 1

    def add(self, tree: _Tree, following: int) -> int:
        """The node at which a tree begins that goes on at another node."""
        kind = tree[0]
        if kind == "set":
            return self.node("set", self.members[tree[1]], following)
        if kind == "look":
            members = self.members[tree[1]]
            return self.node("look", ~members if tree[2] else members, tree[2], following)
        if kind == "end":
            return self.node("look", np.zeros(self.members.shape[1], bool), True, following)
        if kind == "sequence":
            for part in reversed(tree[1]):
                following = self.add(part, following)
            return following
        if kind == "choice":
            first, *others = [self.add(option, following) for option in reversed(tree[1])]
            return functools.reduce(lambda later, earlier: self.node("split", earlier, later), others, first)
        _, part, least, most, mode = tree
        return self.repeat(part, least, most, mode, following)

    def repeat(self, tree: _Tree, least: int, most: int | None, mode: str, following: int) -> int:
        if mode == "+":
            self.check_possessive(tree, following)
        turn: Callable[[int, int], tuple[int, int]] = (lambda a, b: (b, a)) if mode == "?" else (lambda a, b: (a, b))
        if most is None:
            here = self.node("split", -1, -1)
            self.nodes[here][1:] = turn(self.add(tree, here), following)
            if here in self.reach([self.nodes[here][1 + (mode == "?")]]):
                raise _Unsupported  # the repeated part can be empty
        else:
            here = following
            for _ in range(most - least):
                here = self.node("split", *turn(self.add(tree, here), following))
        for _ in range(least):
            here = self.add(tree, here)
        return here

    def check_possessive(self, tree: _Tree, following: int) -> None:
        """A possessive repeat is a greedy one if what follows can be empty, or can't begin with what is repeated."""
        if tree[0] != "set":
            raise _Unsupported
        ends = [self.nodes[i] for i in self.closure([following])]
        if any(node[0] == "match" for node in ends):
            return
        if any((node[1] & self.members[tree[1]]).any() for node in ends):
            raise _Unsupported

    def reach(self, starts: list[int]) -> set[int]:
        """All nodes that can be come to without reading a character."""
        seen: set[int] = set()
        waiting = list(starts)
        while waiting:
            if (i := waiting.pop()) not in seen:
                seen.add(i)
                waiting += {"split": self.nodes[i][1:], "look": self.nodes[i][3:]}.get(self.nodes[i][0], [])
        return seen

    def closure(self, starts: list[int]) -> list[int]:
        """What is come to over splits alone, what is preferred first."""
        seen: dict[int, None] = {}
        waiting = starts[::-1]
        while waiting:
            if (i := waiting.pop()) not in seen:
                seen[i] = None
                if self.nodes[i][0] == "split":
                    waiting += self.nodes[i][:0:-1]
        return [i for i in seen if self.nodes[i][0] != "split"]

    def step(self, state: tuple[int, ...], kind: int, at_end: bool) -> tuple[tuple[int, ...], bool]:
        """The state after a character of a class (or at the end of the text), and whether a match ends before it."""
        following: list[int] = []
        seen: set[int] = set()
        waiting = list(state[::-1])
        while waiting:
            i = waiting.pop()
            if i in seen:
                continue
            seen.add(i)
            node = self.nodes[i]
            if node[0] == "match":  # whatever comes later is preferred less
                return tuple(self.closure(following)), True
            if node[0] == "set" and not at_end and node[1][kind]:
                following.append(node[2])
            if node[0] == "look" and (node[2] if at_end else node[1][kind]):
                waiting += self.closure([node[3]])[::-1]
        return tuple(self.closure(following)), False


def _states(network: _Network, start: int) -> list[list[tuple[int, bool]]]:
    """For each state and class (and for the end) the next state and whether a match ends before the character.

    State 0 is the one in which nothing more can match, state 1 the beginning.
    """
    kinds = network.members.shape[1]
    first = tuple(network.closure([start]))
    if any(network.nodes[i][0] == "match" for i in network.reach([start])):
        raise _Unsupported  # it matches the empty text
    numbers: dict[tuple[int, ...], int] = {(): 0, first: 1}
    waiting = [(), first]
    rows: list[list[tuple[int, bool]]] = []
    for state in waiting:  # grows
        rows.append([])
        for kind in range(kinds + 1):
            following, match = network.step(state, kind, at_end=kind == kinds)
            if following not in numbers:
                numbers[following] = len(numbers)
                waiting.append(following)
            rows[-1].append((numbers[following], match))
        if len(numbers) > MAX_STATES:
            raise _Unsupported
    return rows


def _flagged(rows: list[list[tuple[int, bool]]]) -> NDArray[np.uint32]:
    """The table of `Automaton`: where a match ends and no longer one can, the entry begins the next at once."""
    width = len(rows[0])
    table = []
    for row in rows:
        for kind, (following, match) in enumerate(row):
            flags = MATCHES * match
            if not following:
                following = rows[1][kind][0] if match and kind < width - 1 else 0
                flags |= CUTS if following else STOPS
            table.append(following * width << SHIFT | flags)
    return np.array(table, np.uint32)
