"""From a pre-token pattern to the table of a finite automaton that cuts text as the `regex` module does, but faster.

A pattern is read into a tree. What may still come is a list of threads, trees that wait for a character, and each such
list is a state; the order of the threads keeps what a backtracking engine prefers: earlier alternatives, longer repeats
(Cox 2010, "Regular expression matching in the wild"). Which characters `\\p{L}` or `[^\\s]` stand for is asked of the
`regex` module itself, once for all code points, so both know the same version of Unicode.

What is read: literals, classes, `.`, groups without capture, `(?i:...)`, alternatives, greedy and lazy repeats, looking
ahead by one character, and possessive repeats of one class where giving back would never help. For all else
`compile_automaton` returns None, and the `regex` module does the work.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from fromzero.kernels.flags import CUTS, MATCHES, SHIFT, STOPS

CODE_POINTS = 0x110000
_UNIFORM = 0x40000  # from here on only the beginning of plane 14 has characters of its own (Unicode 17)
MAX_THREADS, MAX_STATES = 4000, 2000  # larger patterns are left to the `regex` module

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
        tree = reader.choice()
        if reader.at < len(pattern) or _can_be_empty(tree):
            return None
        classes, members = _character_classes(tuple(reader.atoms))
        return Automaton(classes, _table(_Threads(members), tree), members.shape[1] + 1)
    except (_Unsupported, RecursionError):
        return None


# A tree: ("set", atom), ("look", atom, negated), ("sequence", *trees), ("choice", *trees), or
# ("repeat", tree, least, most or None, "" or "?" or "+"). An atom is a number; the last one is any character.
_Tree = tuple[Any, ...]
_END: _Tree = ("look", -1, True)


class _Reader:
    """Recursive descent. `atoms` collects the classes of the pattern as expressions of the `regex` module."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0
        self.atoms: list[str] = []

    def choice(self, ignore_case: bool = False) -> _Tree:
        options = [self.sequence(ignore_case)]
        while self.take("|"):
            options.append(self.sequence(ignore_case))
        return ("choice", *options)

    def sequence(self, ignore_case: bool) -> _Tree:
        trees: list[_Tree] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            trees.append(self.repeated(self.single(ignore_case, trees)))
        return ("sequence", *trees)

    def single(self, ignore_case: bool, before: list[_Tree]) -> _Tree:
        for opening, inside in (("(?:", ignore_case), ("(?i:", True)):
            if self.take(opening):
                return self.closed(self.choice(inside))
        for opening, negated in (("(?!", True), ("(?=", False)):
            if self.take(opening):
                return self.closed(("look", self.atom(ignore_case), negated))
        if self.take("\\Z") or (self.takes_line_ends(before) and self.take("$")):
            return _END
        return ("set", self.atom(ignore_case))

    def takes_line_ends(self, before: list[_Tree]) -> bool:
        """`$` also matches before a last line end, but not behind an endless repeat that takes line ends."""
        last = before[-1] if before else ("none",)
        endless = last[0] == "repeat" and last[1][0] == "set" and last[3] is None
        return endless and regex.fullmatch(self.atoms[last[1][1]], "\n") is not None

    def repeated(self, tree: _Tree) -> _Tree:
        match = _REPEAT.match(self.pattern, self.at)
        if match is None:
            return tree
        self.at = match.end()
        sign, least, comma, most, mode = match.groups()
        bounds = {"?": (0, 1), "*": (0, None), "+": (1, None)}.get(sign or "")
        if bounds is None:
            bounds = (int(least), (int(most) if most else None) if comma else int(least))
        endless_nothing = bounds[1] is None and _can_be_empty(tree)
        if tree[0] == "look" or endless_nothing or _REPEAT.match(self.pattern, self.at):
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


def _can_be_empty(tree: _Tree) -> bool:
    kind, *parts = tree
    if kind == "repeat":
        return parts[1] == 0 or _can_be_empty(parts[0])
    if kind in ("sequence", "choice"):
        return (all if kind == "sequence" else any)(map(_can_be_empty, parts))
    return bool(kind == "look")


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


class _Threads:
    """Trees that are being matched. A thread, a number, stands for a tree and the thread that follows; 0 is a match."""

    def __init__(self, members: NDArray[np.bool_]) -> None:
        self.members = np.vstack([members, np.ones_like(members[:1])])
        self.parts: list[tuple[_Tree, int]] = [((), 0)]
        self.numbers: dict[tuple[_Tree, int], int] = {}

    def add(self, tree: _Tree, after: int) -> int:
        if (tree, after) not in self.numbers:
            if len(self.parts) >= MAX_THREADS:
                raise _Unsupported
            self.numbers[tree, after] = len(self.parts)
            self.parts.append((tree, after))
        return self.numbers[tree, after]

    def unfold(self, thread: int) -> list[int]:
        """What a thread is as others, what is preferred first; empty when it waits for a character, or is a match."""
        (kind, *parts), after = self.parts[thread] if thread else (("match",), 0)
        if kind == "sequence":
            return [functools.reduce(lambda after, part: self.add(part, after), reversed(parts), after)]
        if kind == "choice":
            return [self.add(option, after) for option in parts]
        if kind != "repeat":
            return []
        part, least, most, mode = parts
        if mode == "+":
            self.check_possessive(part, after)
        if most == 0:
            return [after]
        fewer = ("repeat", part, max(0, least - 1), most and most - 1, mode)
        again = self.add(part, self.add(fewer, after))
        return [again] if least else [after, again] if mode == "?" else [again, after]

    def check_possessive(self, tree: _Tree, after: int) -> None:
        """A possessive repeat is a greedy one if what follows can be empty, or can't begin with what is repeated."""
        ends = self.waiting([after])
        begins = [self.members[self.parts[i][0][1]] ^ (self.parts[i][0][2:] == (True,)) for i in ends if i]
        if tree[0] != "set" or (0 not in ends and any((self.members[tree[1]] & begin).any() for begin in begins)):
            raise _Unsupported

    def waiting(self, threads: Iterable[int]) -> tuple[int, ...]:
        """What threads are when they are unfolded."""
        seen: dict[int, bool] = {}
        todo = [*threads][::-1]
        while todo:
            if (thread := todo.pop()) not in seen:
                others = self.unfold(thread)
                seen[thread] = not others
                todo += others[::-1]
        return tuple(thread for thread, waits in seen.items() if waits)

    def step(self, state: tuple[int, ...], kind: int, at_end: bool) -> tuple[tuple[int, ...], bool]:
        """The state after a character of a class (or at the end of the text), and whether a match ends before it."""
        following: list[int] = []
        seen: set[int] = set()
        todo = [*state][::-1]
        while todo:
            if (thread := todo.pop()) in seen:
                continue
            seen.add(thread)
            if not thread:  # whatever comes later is preferred less
                return self.waiting(following), True
            (name, atom, *negated), after = self.parts[thread]
            fits = not at_end and self.members[atom, kind]
            if name == "set" and fits:
                following.append(after)
            if name == "look" and fits != negated[0]:
                todo += self.waiting([after])[::-1]
        return self.waiting(following), False


def _table(threads: _Threads, tree: _Tree) -> NDArray[np.uint32]:
    """The table of `Automaton`: where a match ends and no longer one can, the entry begins the next at once.

    Row 0 is that of the state in which nothing more can match.
    """
    kinds, first = threads.members.shape[1], threads.waiting([threads.add(tree, 0)])
    numbers: dict[tuple[int, ...], int] = {(): 0, first: 1}
    waiting, begins, table = [(), first], [threads.step(first, kind, False)[0] for kind in range(kinds)], []
    for state in waiting:  # grows
        for kind in range(kinds + 1):
            following, match = threads.step(state, kind, at_end=kind == kinds)
            flags = MATCHES * match
            if not following:
                following = begins[kind] if match and kind < kinds else ()
                flags |= CUTS if following else STOPS
            if following not in numbers:
                numbers[following] = len(numbers)
                waiting.append(following)
            table.append(numbers[following] * (kinds + 1) << SHIFT | flags)
        if len(numbers) > MAX_STATES:
            raise _Unsupported
    return np.array(table, np.uint32)
