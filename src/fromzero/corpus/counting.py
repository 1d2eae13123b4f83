"""What went in, what was dropped and why, what came out: counted once, so that the numbers add up.

    documents.read == documents.kept + documents.rejected
    documents.kept == documents.train + documents.validation - documents.halved
    documents.rejected == sum of the funnel's documents, and the same for bytes

A document is a part when a long text was cut. A file or a record that can't be read counts as one rejected document
of 0 bytes: there is no text in it that could be measured.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from fromzero.corpus.document import REASONS, category

_SUMS = ("files_read", "files_unreadable", "file_bytes", "cut")


@dataclasses.dataclass
class Tally:
    """A number of documents and of bytes of UTF-8 text."""

    documents: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one more document."""
        self.documents += 1
        self.bytes += size


@dataclasses.dataclass
class _Kind:
    files: int = 0
    documents: int = 0
    bytes: int = 0


class Counts:
    """Filled while documents are read; those of several partitions are added up."""

    def __init__(self, passed_over: Mapping[str, int] | None = None) -> None:
        self.passed_over = dict(passed_over or {})
        self.files_read = self.files_unreadable = self.file_bytes = self.cut = 0
        self.rejected: dict[str, Tally] = collections.defaultdict(Tally)
        self.languages: dict[str, Tally] = collections.defaultdict(Tally)
        self.kinds: dict[str, _Kind] = collections.defaultdict(_Kind)
        self.kept = Tally()
        self.masked: collections.Counter[str] = collections.Counter()

    def file(self, kind: str, size: int, readable: bool) -> None:
        """A file of `size` bytes is finished; readable when any text came out of it."""
        self.files_read += readable
        self.files_unreadable += not readable
        self.file_bytes += size
        self.kinds[kind].files += 1

    def reject(self, reason: str, size: int) -> None:
        """A document is dropped."""
        self.rejected[category(reason)].add(size)

    def keep(self, kind: str, language: str, size: int) -> None:
        """A document is kept."""
        self.kept.add(size)
        self.languages[language].add(size)
        self.kinds[kind].documents += 1
        self.kinds[kind].bytes += size

    def plain(self) -> dict[str, Any]:
        """What was counted of the reading of a partition, as JSON."""
        return {
            **{name: getattr(self, name) for name in _SUMS},
            "files": {name: kind.files for name, kind in self.kinds.items()},
            "rejected": {reason: vars(tally) for reason, tally in self.rejected.items()},
            "masked": self.masked,
        }

    def add(self, plain: Mapping[str, Any]) -> None:
        """Add what `plain` gave."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + plain[name])
        for name, files in plain["files"].items():
            self.kinds[name].files += files
        for reason, tally in plain["rejected"].items():
            self.rejected[reason].documents += tally["documents"]
            self.rejected[reason].bytes += tally["bytes"]
        self.masked.update(plain["masked"])

    def funnel(self) -> list[dict[str, Any]]:
        """Reasons that occurred, in the order of the pipeline."""
        return [{"reason": reason} | vars(self.rejected[reason]) for reason in REASONS if reason in self.rejected]

    def most_frequent(self) -> list[tuple[str, int]]:
        """Reasons and their documents, the most frequent first."""
        return sorted(((r, t.documents) for r, t in self.rejected.items()), key=lambda item: (-item[1], item[0]))

    def summary(self, sides: Mapping[str, Tally], characters: Mapping[str, int], halved: int) -> dict[str, Any]:
        """The counts as JSON, as `counts.json` and the manifest hold them. sides: 'train' and 'validation'."""
        funnel = self.funnel()
        rejected = Tally(sum(row["documents"] for row in funnel), sum(row["bytes"] for row in funnel))
        return {
            "files": {
                "read": self.files_read,
                "unreadable": self.files_unreadable,
                "passed_over": sum(self.passed_over.values()),
                "passed_over_suffixes": self.passed_over,
                "bytes": self.file_bytes,
            },
            "documents": {
                "read": self.kept.documents + rejected.documents,
                "rejected": rejected.documents,
                "kept": self.kept.documents,
                **{side: tally.documents for side, tally in sides.items()},
                "halved": halved,
                "cut": self.cut,
            },
            "bytes": {
                "read": self.kept.bytes + rejected.bytes,
                "rejected": rejected.bytes,
                "kept": self.kept.bytes,
                **{side: tally.bytes for side, tally in sides.items()},
            },
            "characters": dict(characters),
            "funnel": funnel,
            "languages": {
                name: vars(tally)
                for name, tally in sorted(self.languages.items(), key=lambda kv: (-kv[1].bytes, kv[0]))
            },
            "masked": dict(sorted(self.masked.items())),
            "kinds": {name: vars(kind) for name, kind in sorted(self.kinds.items())},
        }
