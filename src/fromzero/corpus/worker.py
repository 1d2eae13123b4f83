"""The child process that parses: `python -m fromzero.corpus.worker`, frames on stdin and stdout.

A frame is a length in decimal, a newline, that many bytes of JSON, a newline. The first frame from the parent holds
the settings, and is answered by {"ready": true} when everything is compiled, which the deadlines of documents have no
time for; then each holds a file and how many of its records to skip, and is answered by frames:
  {"text": ..., "reason": ..., ...}  a document, or {"reason": ...} alone for what could not be read
  {..., "finished": n}               with the last one of a record: so many of the file's records are done with
  {"skipped": inside}                the last record to skip was reached; its place in the archive
  {"died": reason}                   the process ends, for a reason of its own
  {"done": true}
JSON and not pickle, because after parsing hostile bytes this process may no longer be ours, and the parent must be able
to read its answers safely.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fromzero.corpus.cutting import cut
from fromzero.corpus.document import OUT_OF_MEMORY, text_digest
from fromzero.corpus.filters import refine
from fromzero.corpus.formats import read
from fromzero.corpus.language import UNKNOWN, identify
from fromzero.corpus.masking import Masking, mask
from fromzero.corpus.normalize import normalize_stream, repair_stream, replace_surrogates
from fromzero.corpus.reading import Raw, ReadSettings, Record, bounded, reason_of
from fromzero.corpus.settings import CorpusConfig, Filters, Limits
from fromzero.errors import UserError

MAX_HEADER = 20
_HEARTBEAT = 1000


@dataclasses.dataclass(frozen=True)
class WorkSettings:
    """The part of the stage's settings that a child needs."""

    read: ReadSettings
    filters: Filters
    masking: Masking | None
    cut_characters: int | None
    normalize: bool
    repair: bool

    @staticmethod
    def of(config: CorpusConfig) -> "WorkSettings":
        """Taken from the stage's settings."""
        read_settings = ReadSettings(config.limits, config.html, config.text_key, config.heading_keys)
        return WorkSettings(
            read_settings, config.filters, config.masking, config.cut_characters, config.normalize, config.repair
        )

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> "WorkSettings":
        """From the JSON that `files.to_plain` makes of it."""
        inner = plain["read"]
        read_settings = ReadSettings(
            Limits(**inner["limits"]), inner["html"], inner["text_key"], tuple(inner["heading_keys"])
        )
        masking = plain["masking"] and Masking(**plain["masking"])
        others = {name: plain[name] for name in ("cut_characters", "normalize", "repair")}
        return WorkSettings(read_settings, Filters(**plain["filters"]), masking, **others)


def write_frame(stream: BinaryIO, value: Any) -> None:
    """Send one value and flush."""
    payload = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    stream.write(b"%d\n%b\n" % (len(payload), payload))
    stream.flush()


def read_frame(stream: BinaryIO, longest: int) -> Any | None:
    """The next value, or None at the end of the stream. Raises ValueError for anything that is not a whole frame."""
    header = stream.readline(MAX_HEADER)
    if not header:
        return None
    if not header.endswith(b"\n") or not header[:-1].isdigit() or int(header) > longest:
        raise ValueError("not a frame")
    payload = stream.read(int(header) + 1)
    if len(payload) != int(header) + 1 or payload[-1:] != b"\n":
        raise ValueError("a frame was cut off")
    return json.loads(payload)


def process(path: Path, kind: str, settings: WorkSettings, skip: int = 0) -> Iterator[dict[str, Any]]:
    """Everything about a file's documents that needs no other file: read, normalise, cut, identify, judge.

    Yields plain mappings: {text, id, url, language, meta, reason} with reason None for a text to keep, {reason} alone
    for what could not be read, both with `inside` when it is from an archive; and the progress, as frames tell it.
    """
    try:
        for number, record in enumerate(read(path, kind, settings.read)):
            if number < skip:
                if number == skip - 1 or number % _HEARTBEAT == _HEARTBEAT - 1:
                    yield {"skipped": record.inside} if number == skip - 1 else {"finished": skip}
                continue
            held: dict[str, Any] = {}  # so that the last answer and the news that it is the last are one frame
            for answer in _answers(record, settings):
                yield from [held] if held else []
                held = answer | ({"inside": record.inside} if record.inside else {})
            yield held | {"finished": number + 1}
    except Exception as error:
        yield {"reason": reason_of(error)}


def _answers(record: Record, settings: WorkSettings) -> Iterator[dict[str, Any]]:
    try:
        yield from _parts(record.parse(), settings)
    except Exception as error:
        yield {"reason": reason_of(error)}


def _parts(raw: Raw, settings: WorkSettings) -> Iterator[dict[str, Any]]:
    blocks = repair_stream(raw.blocks) if settings.repair else raw.blocks
    blocks = normalize_stream(blocks) if settings.normalize else map(replace_surrogates, blocks)
    if settings.cut_characters is None:
        blocks = bounded(blocks, settings.read.limits.document_bytes, ", and cut_characters is null")
    parts = cut(blocks, settings.cut_characters)
    first, second = next(parts, ""), next(parts, None)
    if second is None:
        yield _judged(first, raw, {}, settings)
        return
    for number, text in enumerate(itertools.chain((first, second), parts), 1):
        yield _judged(text, raw, {"part": str(number)}, settings)


def _judged(text: str, raw: Raw, part: dict[str, str], settings: WorkSettings) -> dict[str, Any]:
    depends = settings.filters.profile == "web" or settings.filters.languages
    language = identify(text) if depends else ""
    refined, reason = refine(text, settings.filters, language)
    masked: dict[str, int] = {}
    if reason is None:
        text, language = refined, language or identify(refined)
        if settings.masking:
            text, masked = mask(text, settings.masking)
    meta = {key: replace_surrogates(value) for key, value in raw.meta.items()} | part
    return {
        "id": text_digest(text),
        "text": text,
        "url": replace_surrogates(raw.url),
        "language": UNKNOWN if reason else language,
        "meta": meta,
        "reason": reason,
        "masked": masked,
    }


def limit_memory(limit: int) -> None:
    """Bound this process's address space, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _serve(stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Answer requests until stdin closes."""
    settings = WorkSettings.from_plain(read_frame(stdin, 1 << 20) or {})
    refine("Warm up.", settings.filters, "en")
    write_frame(stdout, {"ready": True})
    limit_memory(settings.read.limits.parse_memory_bytes)
    while (request := read_frame(stdin, 1 << 20)) is not None:
        try:
            for frame in process(Path(request["path"]), request["kind"], settings, request["skip"]):
                write_frame(stdout, frame)
        except MemoryError:
            write_frame(stdout, {"died": OUT_OF_MEMORY})
            return  # what is left of the heap is not to be trusted with the next record
        except UserError as error:
            write_frame(stdout, {"error": str(error)})
        write_frame(stdout, {"done": True})


def _main() -> None:
    # Ctrl-C goes to the whole process group; the parent decides what happens to children. When it is gone, stdin ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as stdout:
        os.dup2(2, 1)  # a library that prints must not write into the frames
        try:
            _serve(sys.stdin.buffer, stdout)
        except BrokenPipeError:
            os._exit(0)
        except Exception:
            traceback.print_exc()
            os._exit(1)


if __name__ == "__main__":
    _main()
