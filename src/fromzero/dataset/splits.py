"""Which records are held out: by what they ask, so that no held-out one has a twin among those that are learned."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from fromzero.console import say
from fromzero.dataset.formats import Conversation, Judged, Labelled, Preference
from fromzero.dataset.sources import Split, Tally, find_splits
from fromzero.errors import UserError

SHARE = 0.05
_BETWEEN = re.compile(r"[^\w+\-*/=<>^%]+")  # what stands between words and the signs of formulas

R = TypeVar("R", Conversation, Preference, Judged, Labelled)


def fingerprint(text: str) -> int:
    """64 bits of a text, the same whatever its case, blanks and punctuation."""
    words = _BETWEEN.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return int.from_bytes(hashlib.sha256((words or text).encode()).digest()[:8], "big")


def key_of(record: Conversation | Preference | Judged | Labelled) -> str:
    """The text that decides the split of a record: a labelled text, or all before the first answer to learn from."""
    if isinstance(record, Labelled):
        return record.text
    asked = record.messages[: record.learned.index(True)] if isinstance(record, Conversation) else record.prompt
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in asked)


def read_splits(
    path: Path,
    read: Callable[[Path, Tally], Iterator[tuple[R, str]]],
    share: float = SHARE,
    tally: Tally | None = None,
) -> Iterator[tuple[Split, R, str]]:
    """All records below a path (see `find_splits`) as (split, record, place), in constant memory but for fingerprints.

    read: `read_conversations` or another of its kind. Where the path has no held-out split, `share` is held out, by
    key. Repeated keys, and held-out ones that are learned as well, are counted by `tally`.
    """
    found, tally = find_splits(path), tally or Tally()
    seen: dict[Split, set[int]] = {"train": set(), "validation": set()}
    for given, files in found.items():
        for record, place in (one for file in files for one in read(file, tally)):
            alone, mark = len(found) == 1, fingerprint(key_of(record))
            split: Split = "validation" if alone and mark < share * 2**64 else given
            tally.repeated += mark in seen[split]
            tally.leaked += given == "validation" and mark in seen["train"]
            seen[split].add(mark)
            yield split, record, place


def load_splits(
    path: Path,
    read: Callable[[Path, Tally], Iterator[tuple[R, str]]],
    share: float = SHARE,
    tally: Tally | None = None,
) -> dict[Split, list[R]]:
    """Split -> its records, and what was dropped or repeated is said, and classes that one split has none of.

    Raises UserError when there is nothing to learn from.
    """
    loaded: dict[Split, list[R]] = {"train": [], "validation": []}
    tally = tally or Tally()
    for split, record, _ in read_splits(path, read, share, tally):
        loaded[split].append(record)
    tally.tell()
    if not loaded["train"]:
        raise UserError(f"{path} holds no record to learn from; add some")
    labels = {split: {r.label for r in records if isinstance(r, Labelled)} for split, records in loaded.items()}
    for label in sorted(labels["train"] ^ labels["validation"]) if loaded["validation"] else ():
        say(f"class '{label}' is in {'train' if label in labels['train'] else 'validation'} only")
    return loaded
