"""Peak memory and speed of `fromzero corpus build` as the corpus grows, over all of its processes.

    python bench/corpus_memory.py CORPUS.jsonl [--megabytes 100 1000] [--memory_bytes 1300000000] [--save]

CORPUS.jsonl has one JSON string a line, as `bench/tokenizer.py corpus` writes it. Documents are made of its lines,
drawn at random by a seed, so that there are as many different ones as wanted.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import child_environment, fail, machine_lines, markdown_table, publish
from quickstart_memory import Sampler

FILE_BYTES = 20_000_000


def main() -> None:
    """Build corpora of several sizes, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--memory_bytes", type=int, default=1_300_000_000)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    with arguments.corpus.open(encoding="utf-8") as file:
        lines = [line for text in file for line in json.loads(text).split("\n") if len(line) > 40]
    rows = [_measure(lines, size * 1_000_000, arguments.memory_bytes) for size in arguments.megabytes]
    header = ("documents, MB", "documents", "kept", "minutes", "MB/s", "peak memory, MB")
    limit = f"`memory_bytes` {arguments.memory_bytes:,}, the rules of the profile documents, near duplicates"
    body = f"JSON lines, {limit}.\n\n{markdown_table(header, rows)}"
    publish("corpus-memory", "Memory of a corpus build", body, machine_lines(), arguments.save)


def _measure(lines: list[str], size: int, memory_bytes: int) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(lines, folder / "in", size)
        command = [sys.executable, "-m", "fromzero", "corpus", "build", "--inputs", f"[{folder / 'in'}]"]
        command += ["--output", str(folder / "out"), "--memory_bytes", str(memory_bytes)]
        started = time.monotonic()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=child_environment())
        sampler = Sampler(process, 0.5)
        threading.Thread(target=sampler.follow_output, daemon=True).start()
        sampler.watch()
        seconds = time.monotonic() - started
        if process.returncode:
            fail(f"the build of {size} bytes ended with {process.returncode}")
        counts = json.loads((folder / "out" / "counts.json").read_text())["documents"]
        shutil.rmtree(folder / "in")
    peak = max(usage.peak_bytes for usage in sampler.stages.values())
    numbers = (f"{size / 1e6:,.0f}", f"{counts['read']:,}", f"{counts['kept']:,}")
    return (*numbers, f"{seconds / 60:.1f}", f"{size / 1e6 / seconds:.1f}", f"{peak / 1e6:,.0f}")


def _write(lines: list[str], folder: Path, size: int) -> None:
    """Files of JSON lines, so many bytes in all."""
    folder.mkdir()
    chance = random.Random(0)
    written = 0
    for number in range(-(-size // FILE_BYTES)):
        with (folder / f"{number:05d}.jsonl").open("wb") as file:
            while file.tell() < FILE_BYTES and written + file.tell() < size:
                text = "\n".join(chance.choices(lines, k=chance.randint(10, 80)))
                file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
            written += file.tell()


if __name__ == "__main__":
    main()
