"""Training and encoding of a byte-level BPE in fromzero, rustbpe, tokenizers and tiktoken, on the same text.

    python bench/tokenizer.py corpus OUT.jsonl --megabytes 130 en=FOLDER,FOLDER code=FOLDER zh=FOLDER
    python bench/tokenizer.py train CORPUS.jsonl [--rounds 3] [--save]
    python bench/tokenizer.py encode CORPUS.jsonl [--rounds 5] [--save]
    python bench/tokenizer.py start [--save]

Each run of a trainer is a process of its own (`tokenizer_worker.py`), so that its memory can be told; the systems take
turns. Encoders take turns in one process on one core; their ids must be the same, or the bench fails.
"""

import argparse
import html
import importlib.metadata
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import child_environment, core_count, fail, machine_lines, markdown_table, publish

WORKER = Path(__file__).with_name("tokenizer_worker.py")
PEERS = ("rustbpe", "tokenizers", "tiktoken")
MAX_FILE = 400_000  # bytes; larger files are tables more often than text


def main() -> None:
    """Run one of the four parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    corpus = parts.add_parser("corpus")
    corpus.add_argument("output", type=Path)
    corpus.add_argument("groups", nargs="+", metavar="GROUP=FOLDER,...")
    corpus.add_argument("--megabytes", type=int, default=130)
    for name, rounds in (("train", 3), ("encode", 5)):
        part = parts.add_parser(name)
        part.add_argument("corpus", type=Path)
        part.add_argument("--rounds", type=int, default=rounds)
        part.add_argument("--vocab", type=int, default=32000)
        part.add_argument("--save", action="store_true")
    parts.add_parser("start").add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    {"corpus": make_corpus, "train": bench_training, "encode": bench_encoding, "start": bench_start}[arguments.part](
        arguments
    )


def make_corpus(arguments: argparse.Namespace) -> None:
    """The same number of bytes from each group, files in random order, one JSON string a line."""
    quota = arguments.megabytes * 1_000_000 // len(arguments.groups)
    documents: list[str] = []
    for group in arguments.groups:
        name, _, folders = group.partition("=")
        files = sorted(path for folder in folders.split(",") for path in Path(folder).rglob("*") if path.is_file())
        random.Random(0).shuffle(files)
        size = 0
        for text in (text for path in files for text in _texts(path)):
            size += len(text.encode())
            documents.append(text)
            if size >= quota:
                break
        else:
            fail(f"{name} has {size / 1e6:.0f} MB of text only, of {quota / 1e6:.0f}; name more folders")
    random.Random(1).shuffle(documents)
    with arguments.output.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in documents)
    print(f"{len(documents)} documents, {arguments.output.stat().st_size / 1e6:.0f} MB: {arguments.output}")


def _texts(path: Path) -> Iterator[str]:
    try:
        data = path.read_bytes() if path.stat().st_size <= 10 * MAX_FILE else b"\xff"
        text = data.decode()
    except (OSError, UnicodeDecodeError):
        return
    if path.suffix == ".json":  # lists of poems
        poems = json.loads(text)
        poems = [poem for poem in poems if isinstance(poem, dict) and "paragraphs" in poem]
        for i in range(0, len(poems), 50):
            yield "\n\n".join("\n".join(map(str, poem["paragraphs"])) for poem in poems[i : i + 50])
        return
    if path.suffix in (".html", ".htm"):
        text = re.sub(r"(?s)<(script|style|head).*?</\1>", "", text)
        text = re.sub(r"\n\s*\n+", "\n\n", html.unescape(re.sub(r"<[^>]+>", "", text)))
    if len(text) > 200 and len(text.encode()) < MAX_FILE:
        yield text


def bench_training(arguments: argparse.Namespace) -> None:
    """Seconds and memory of training, and the ratio to each peer."""
    size = sum(len(json.loads(line).encode()) for line in arguments.corpus.open(encoding="utf-8"))
    results: dict[str, list[dict[str, float]]] = {}
    systems = ["fromzero", "rustbpe", "tokenizers", "fromzero-custom", "tokenizers-custom"]
    for number in range(arguments.rounds):
        for system in systems:
            results.setdefault(system, []).append(_train(system, arguments))
            print(f"round {number + 1}: {system} {results[system][-1]}", flush=True)
    rows = []
    for system in systems:
        seconds = [run["seconds"] for run in results[system]]
        ours = "fromzero-custom" if system.endswith("-custom") else "fromzero"
        ratios = sorted(
            run["seconds"] / our["seconds"] for run, our in zip(results[system], results[ours], strict=True)
        )
        memory = statistics.median(run["memory"] for run in results[system])
        rows.append(
            [
                system,
                f"{statistics.median(seconds):.1f}",
                f"{size / 1e6 / statistics.median(seconds):.1f}",
                f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})",
                f"{memory / 1e6:.0f}",
            ]
        )
    header = ["system", "seconds", "MB/s", "fromzero is faster by", "memory added, MB"]
    body = (
        f"{size / 1e6:.0f} MB of text, {arguments.vocab} tokens, cl100k's pattern, {core_count()} cores, "
        f"{arguments.rounds} rounds, medians; ratios within a round. The text lies in memory as a list of strings "
        "before the clock starts; fromzero's kernels are compiled. `custom`: a pattern that looks behind, which "
        "fromzero leaves to the `regex` module.\n\n" + markdown_table(header, rows)
    )
    publish("tokenizer-training", "Training a tokenizer", body, machine_lines(**_versions()), arguments.save)


def _train(system: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, str(WORKER), "train", system, str(arguments.corpus), str(arguments.vocab)]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
    if done.returncode:
        fail(f"{system} failed: {done.stderr.strip()[-500:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def bench_encoding(arguments: argparse.Namespace) -> None:
    """Megabytes per second of encoding on one core, in batch on all, and the ratio to each peer."""
    command = [sys.executable, str(WORKER), "encode", str(arguments.corpus), str(arguments.vocab)]
    done = subprocess.run([*command, str(arguments.rounds)], env=child_environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        fail("the encoders failed, as told above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    tables = []
    for group, systems in found["seconds"].items():
        size = found["bytes"][group]
        rows = []
        for system, seconds in systems.items():
            ours = systems["fromzero, arrays" if "array" in system else "fromzero"]
            ratios = sorted(theirs / mine for theirs, mine in zip(seconds, ours, strict=True))
            speed = size / 1e6 / statistics.median(seconds)
            ratio = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
            rows.append([system, f"{speed:.1f}", ratio])
        title = f"### {group}, {size / 1e6:.0f} MB"
        tables.append(f"{title}\n\n" + markdown_table(["system", "MB/s", "fromzero is faster by"], rows))
    rows = [
        [form, f"{statistics.median(one):.2f}", f"{statistics.median(many):.2f}",
         f"{statistics.median(o / m for o, m in zip(one, many, strict=True)):.2f}"]
        for form, (one, many) in found["batch"].items()
    ]  # fmt: skip
    header = ["in batch, all text", "seconds, 1 thread", f"seconds, {core_count()} threads", "faster by"]
    body = (
        f"The same vocabulary of {arguments.vocab} tokens, cl100k's pattern, the same ids from all (checked). "
        f"One core; {arguments.rounds} rounds in turn, medians. Lists of Python numbers, as `encode` of each "
        "gives them; `arrays` are NumPy's.\n\n" + "\n\n".join([*tables, markdown_table(header, rows)])
    )
    publish("tokenizer-encoding", "Encoding text", body, machine_lines(**_versions()), arguments.save)


def bench_start(arguments: argparse.Namespace) -> None:
    """Seconds from starting Python to the first ids: of texts that are encoded plainly, and of one that is not."""
    code = (
        "import sys, time; start = time.perf_counter(); from fromzero.tokenizer import load_tokenizer; "
        "load_tokenizer(sys.argv[1]).encode('The quick brown fox, 从零开始. ' * int(sys.argv[2])); "
        "print(time.perf_counter() - start)"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(WORKER), "save", folder], env=child_environment(), check=True)
        for text, repeats in (("a line", 1), ("a page", 200), ("a chapter", 2000)):
            for kernels, cache, rounds in (("compiled before", None, 7), ("never compiled", folder, 1)):
                changes = {"NUMBA_CACHE_DIR": f"{cache}/{repeats}"} if cache else {}
                seconds, said = [], ""
                for _ in range(rounds + (cache is None)):
                    command = [sys.executable, "-c", code, folder, str(repeats)]
                    done = subprocess.run(
                        command, env=child_environment(changes), capture_output=True, text=True, check=True
                    )
                    seconds.append(float(done.stdout))
                    said = done.stderr.strip()
                rows.append([f"{text}, {kernels}", f"{statistics.median(seconds[-rounds:]):.2f}", said or "nothing"])
    body = "Importing `fromzero.tokenizer`, opening a tokenizer and encoding a first text, in a new process.\n\n"
    body += markdown_table(["text and kernels", "seconds", "the user sees"], rows)
    publish("tokenizer-start", "Starting to encode", body, machine_lines(**_versions()), arguments.save)


def _versions() -> dict[str, str]:
    names = (*PEERS, "regex", "numba", "numpy")
    return {name: importlib.metadata.version(name) for name in names}


if __name__ == "__main__":
    main()
