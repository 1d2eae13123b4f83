"""Partitions: the files of a build in groups, each of which is read on its own, in any order, on any machine.

How the files are grouped depends on nothing but the files, so the corpus does not depend on who reads which group. A
partition is finished when its folder has its final name; a build that was killed goes on with the others.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fromzero.console import Reporter
from fromzero.corpus import engine
from fromzero.corpus.counting import Counts
from fromzero.corpus.drafts import SIGNATURES, drafted
from fromzero.corpus.fetching import fetched
from fromzero.corpus.files import SourceFile
from fromzero.corpus.near_duplicates import MinHash, write_signatures
from fromzero.corpus.pool import parser, release
from fromzero.corpus.screening import Screen, Screening
from fromzero.corpus.storing import read_rows
from fromzero.corpus.worker import WorkSettings
from fromzero.errors import DISK_FULL, UserError
from fromzero.files import digest_of, to_plain

AT_LEAST, AT_MOST, ABOUT = 1_000_000, 256_000_000, 64
"""Bytes of files in a partition, and how many partitions there are between these bounds."""
ATTEMPTS = 3
"""How often all workers may die one after the other without finishing a partition before a build gives up."""
FETCHED = "fetched"


@dataclasses.dataclass(frozen=True)
class Partition:
    """Files that are read together, and the folder for what comes of them."""

    folder: Path
    """A draft (`drafts`), with SIGNATURES of the kept documents where near duplicates are looked for."""
    files: tuple[SourceFile, ...]

    @property
    def bytes(self) -> int:
        """Size of the files."""
        return sum(file.bytes for file in self.files)


def partition(files: Sequence[SourceFile], folder: Path) -> list[Partition]:
    """The files in groups of about the same size, in their order, each with a folder below `folder`."""
    limit = min(max(sum(file.bytes for file in files) / ABOUT, AT_LEAST), AT_MOST)
    groups: list[list[SourceFile]] = [[]]
    size = 0
    for file in files:
        if groups[-1] and size + file.bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.bytes
    return [Partition(folder / f"{number:05d}", tuple(group)) for number, group in enumerate(groups)]


def read_all(
    partitions: Sequence[Partition],
    settings: WorkSettings,
    screening: Screening,
    near: MinHash | None,
    runner: engine.Runner,
    address: str,
    workers: int,
    report: Reporter,
) -> None:
    """Read those partitions that are not finished. Raises UserError when a task can't go on, as on a full disk."""
    missing, attempts, why = _unfinished(partitions), 0, ""
    done = sum(p.bytes for p in partitions) - sum(p.bytes for p in missing)
    while missing:
        common = {
            "settings": to_plain(settings),
            "screening": [json.dumps(to_plain(screening)), digest_of(screening.digests())],
            "near_duplicates": to_plain(near),
        }
        items = [json.dumps({"partition": to_plain(p), **common}) for p in missing]
        try:
            with contextlib.closing(engine.run(read_one, items, runner, address, workers)) as results:
                for result in map(json.loads, results):
                    if "error" in result:
                        raise UserError(result["error"])
                    done += result["bytes"]
                    report(done)
        except UserError:
            raise
        except Exception as error:  # a worker was killed (Daft has several for that): what the others finished is kept
            why = f": {str(error)[-500:]}"
        attempts = attempts + 1 if len(_unfinished(partitions)) == len(missing) else 0
        if attempts >= ATTEMPTS:
            raise UserError(f"workers of the corpus build die again and again{why}")
        missing = _unfinished(partitions)
        done = sum(p.bytes for p in partitions) - sum(p.bytes for p in missing)
    release()


def read_one(item: str) -> str:
    """Read a partition: what the engine runs."""
    plain = json.loads(item)
    files = tuple(SourceFile(**file | {"path": Path(file["path"])}) for file in plain["partition"]["files"])
    part = Partition(Path(plain["partition"]["folder"]), files)
    try:
        near = plain["near_duplicates"] and MinHash(**plain["near_duplicates"])
        _read(part, WorkSettings.from_plain(plain["settings"]), _screen(*plain["screening"]), near)
    except UserError as error:
        return json.dumps({"error": str(error)})
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        return json.dumps(
            {"error": f"{part.folder}: {error.strerror}; make room and run it again, to go on from there"}
        )
    return json.dumps({"bytes": part.bytes})


@functools.lru_cache(1)
def _screen(plain: str, contents: str) -> Screen:
    """Loaded once in a process, and again for other `contents` of the files."""
    return Screen(Screening.from_plain(json.loads(plain)))


def _read(part: Partition, settings: WorkSettings, screen: Screen, near: MinHash | None) -> None:
    with drafted(part.folder) as draft:
        for file, answer in _answers(part.files, settings, draft.counts, draft.folder / FETCHED):
            reason = answer["reason"]
            if reason is None:
                reason, matches = screen.judge(*(answer[key] for key in ("id", "url", "text", "language")))
                draft.matches += matches
            if reason is not None:
                draft.reject(reason, file.source, answer.get("id"), answer.get("text"))
                continue
            columns = {key: answer[key] for key in ("id", "text", "url", "language")}
            draft.counts.masked.update(answer["masked"])
            meta = sorted(answer["meta"].items())
            draft.keep(columns | {"source": file.source, "meta": meta, "kind": file.kind})
        if near:
            draft.kept.finish()
            write_signatures((row["text"] for row in read_rows(draft.folder, "kept")), draft.folder / SIGNATURES, near)


def _answers(
    files: Sequence[SourceFile], settings: WorkSettings, counts: Counts, folder: Path
) -> Iterator[tuple[SourceFile, dict[str, Any]]]:
    """What a child says about each document, in file order; files are counted on the way, and fetched into `folder`."""
    readable, failed = False, dict[Path, str]()
    with parser(settings) as parsing:
        for file, answer in parsing.parse(fetched(files, folder, failed)):
            if answer is None:
                counts.file(file.kind, file.bytes, readable)
                readable = False
                continue
            answer |= {"reason": failed[file.path]} if file.path in failed else {}
            readable = readable or "text" in answer
            counts.cut += answer.get("meta", {}).get("part") == "1"
            yield file, answer


def _unfinished(partitions: Sequence[Partition]) -> list[Partition]:
    return [part for part in partitions if not part.folder.exists()]
