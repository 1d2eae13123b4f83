"""Screens: what the user gives to judge documents by. Lists, classifiers, language models, evaluation sets.

They see what the rules of `filters` kept, in the order in which `Screen.judge` names them; the first reason counts.
"""

import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fromzero.artifact import open_artifact
from fromzero.corpus.classifier import Classifier
from fromzero.corpus.decontaminate import Decontamination, EvaluationIndex, Match
from fromzero.corpus.document import CONTAMINATED, OTHER_LANGUAGE
from fromzero.corpus.lists import ANY, Blocklist, Lists
from fromzero.corpus.ngram_model import NgramModel
from fromzero.errors import UserError
from fromzero.files import digest_file, digest_of

MAX_SET_BYTES = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Screening:
    """What documents are judged by; nothing by default."""

    keep_languages: tuple[str, ...] = ()
    lists: Lists | None = None
    classifiers: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    ngrams: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    decontaminate: Decontamination | None = None

    @staticmethod
    def of(settings: Any) -> "Screening":
        """Those fields of a stage's settings."""
        return Screening(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Screening)})

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> "Screening":
        """From the JSON that `files.to_plain` makes of it."""
        lists, against = plain["lists"], plain["decontaminate"]
        if lists:
            files = {name: tuple(map(Path, lists[name])) for name in ("domains", "addresses")}
            lists = Lists(**lists | files | {"words": _paths(lists["words"])})
        if against:
            against = Decontamination(**against | {"sets": _paths(against["sets"])})
        models = {name: _paths(plain[name]) for name in ("classifiers", "ngrams")}
        return Screening(tuple(plain["keep_languages"]), lists, decontaminate=against, **models)

    def digests(self) -> dict[str, str]:
        """Digests of the contents of all files and models. Raises UserError for one that is not there."""
        found: dict[str, str] = {}
        for kind, models in (("classifier", self.classifiers), ("ngrams", self.ngrams)):
            found |= {f"{kind} {language}": open_artifact(path, kind).digest for language, path in models.items()}
        files: list[Path] = list(self.decontaminate.sets.values()) if self.decontaminate else []
        if self.lists:
            files += [*self.lists.domains, *self.lists.addresses, *self.lists.words.values()]
        return found | ({"lists and sets": digest_of([_digest(file) for file in files])} if files else {})


class Screen:
    """The screens, loaded. Raises UserError for what can't be read."""

    def __init__(self, settings: Screening) -> None:
        self.languages = settings.keep_languages
        self.lists = Blocklist(settings.lists) if settings.lists else None
        self.classifiers = {language: Classifier.load(path) for language, path in settings.classifiers.items()}
        self.ngrams = {language: NgramModel.load(path) for language, path in settings.ngrams.items()}
        self.index = evaluation_index(settings.decontaminate) if settings.decontaminate else None

    def judge(self, name: str, url: str, text: str, language: str) -> tuple[str | None, list[Match]]:
        """The first reason to drop the document `name`, or None to keep it; and evaluation items that it touches."""
        if self.languages and language not in self.languages:
            return f"{OTHER_LANGUAGE}: {language}", []
        reason = self.lists.judge(url, text, language) if self.lists else None
        for models in (self.classifiers, self.ngrams):
            model: Classifier | NgramModel | None = models.get(language, models.get(ANY))
            reason = reason or (model.judge(text) if model else None)
        matches = self.index.matches(name, text) if self.index and not reason else []
        worst = max((match for match in matches if match.contaminated), key=lambda match: match.share, default=None)
        if worst:
            reason = f"{CONTAMINATED}: item {worst.item} of {worst.set}, share {worst.share:.2g}"
        return reason, matches


def evaluation_index(settings: Decontamination) -> EvaluationIndex:
    """The index of all items of the sets."""
    sets = {name: list(_items(path)) for name, path in settings.sets.items()}
    return EvaluationIndex(sets, settings.words, settings.least_words, settings.share)


def _items(path: Path) -> Iterator[str]:
    """The items of a set."""
    name = path.name.removesuffix(".gz")
    if not name.endswith((".jsonl", ".txt")):
        raise UserError(f"{path}: evaluation sets are .jsonl files, an item a line, or .txt files; both also as .gz")
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(MAX_SET_BYTES + 1)
        if len(data) > MAX_SET_BYTES:
            raise ValueError(f"more than {MAX_SET_BYTES:,} bytes")
        for line in data.decode("utf-8-sig").split("\n"):
            number += 1
            if line.strip():
                yield "\n".join(_strings(json.loads(line))) if name.endswith(".jsonl") else line.strip()
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {number} can't be read ({error}); it takes items in UTF-8") from error


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, keys not among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _paths(plain: Mapping[str, str]) -> dict[str, Path]:
    return {name: Path(path) for name, path in plain.items()}


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); name a file that exists") from error
