"""Files at URLs are fetched by the worker that reads their partition, wherever it runs, and removed when it is done."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fromzero.corpus.document import UNOPENED
from fromzero.corpus.files import SourceFile
from fromzero.errors import UserError
from fromzero.locations import fetch, name_of, safe_name

AT_ONCE = 8


def fetched(files: Sequence[SourceFile], folder: Path, failed: dict[Path, str]) -> Iterator[SourceFile]:
    """The files in their order, those at URLs as copies in `folder`, each of which lasts until the next is asked for.

    `failed` gets the paths of those that could not be fetched, which don't exist, with the reasons.
    """

    def bring(number: int, file: SourceFile) -> SourceFile:
        if not file.url:
            return file
        path = folder / f"{number:06d}-{safe_name(name_of(file.url))}"
        try:
            fetch(file.url, path, file.bytes)
        except UserError as error:
            path.unlink(missing_ok=True)
            failed[path] = f"{UNOPENED}: {error}"
        return dataclasses.replace(file, path=path)

    if not any(file.url for file in files):
        yield from files
        return
    threads = ThreadPoolExecutor(AT_ONCE)
    try:
        for file in threads.map(bring, range(len(files)), files):
            yield file
            if file.url:
                file.path.unlink(missing_ok=True)
    finally:
        threads.shutdown(cancel_futures=True)
