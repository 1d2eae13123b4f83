"""Near duplicates in fromzero, Daft, rensa and datatrove: the same documents, 16 bands of 8 rows, runs of five words.

    python bench/deduplication.py corpus OUT --documents 200000 SOURCE.jsonl
    python bench/deduplication.py run OUT [--rounds 3] [--python PEERS/bin/python] [--save]

SOURCE.jsonl has a JSON string a line (`tokenizer.py corpus` makes one). `corpus` puts documents together from passages
of it, a fifth of them with some words of another changed, and keeps how similar these pairs are. `run` times whole jobs
from Parquet files to the numbers of the documents that are kept; each run is a process of its own, and systems take
turns. rensa gives flags, not clusters, so of its pairs the one is counted as found that has both flagged. Datatrove
takes a part of the documents. --python: where the peers are installed, if not here.
"""

import argparse
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import child_environment, core_count, fail, machine_lines, markdown_table, publish

FILES, PART = 4, 0.02  # files of documents; the share of each that datatrove gets
HAN = "[\u2e80-\ua4cf\uf900-\ufaff]"
PEERS = ("daft", "rensa", "datatrove")


def main() -> None:
    """Make the documents, or run all systems over them, or one (for itself)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    corpus, run = parts.add_parser("corpus"), parts.add_parser("run")
    corpus.add_argument("folder", type=Path)
    corpus.add_argument("source", type=Path)
    corpus.add_argument("--documents", type=int, default=200_000)
    run.add_argument("folder", type=Path)
    run.add_argument("--rounds", type=int, default=3)
    run.add_argument("--python", default=sys.executable)
    run.add_argument("--save", action="store_true")
    one = parts.add_parser("one")
    one.add_argument("system", choices=SYSTEMS)
    one.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    {"corpus": make_corpus, "run": bench, "one": run_one}[arguments.part](arguments)


def make_corpus(arguments: argparse.Namespace) -> None:
    """Documents of about 1,100 bytes, a quarter of them Chinese, and the Jaccard similarity of the planted pairs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fromzero.corpus.shingles import shingles_of, words_of

    rng, passages = random.Random(0), _passages(arguments.source)
    texts: list[str] = []
    for number in range(arguments.documents * 4 // 5):
        chinese = number % 4 == 0
        joint, text = "\n", ""
        while len(text.encode()) < 1000:
            text += joint + rng.choice(passages[chinese])
        texts.append(text.strip())
    rows, truth = [], []
    for text in texts:  # a copy comes right behind, so that a part of the documents has pairs too
        rows.append(text)
        if rng.random() < 0.25:
            rows.append(_changed(text, rng))
            one, other = (set(shingles_of(words_of(t.encode())[0], 5).tolist()) for t in rows[-2:])
            truth.append((len(rows) - 2, len(rows) - 1, len(one & other) / max(1, len(one | other))))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for file in range(FILES):
        mine = range(file * len(rows) // FILES, (file + 1) * len(rows) // FILES)
        table = pa.table({"id": [f"{i:08d}" for i in mine], "text": [rows[i] for i in mine]})
        pq.write_table(table, arguments.folder / f"{file}.parquet")
    (arguments.folder / "truth.json").write_text(json.dumps(truth))
    print(f"{len(rows)} documents, {sum(len(text.encode()) for text in rows) / 1e6:.0f} MB, {len(truth)} planted pairs")


def _passages(source: Path) -> dict[bool, list[str]]:
    """Some 200 bytes each, by whether they are Chinese."""
    found: dict[bool, list[str]] = {False: [], True: []}
    for line in source.open(encoding="utf-8"):
        passage = ""
        for part in re.split(r"(?<=[.!?。！？\n])", json.loads(line)):
            passage += part
            if len(passage.encode()) >= 200:
                share = len(re.findall(HAN, passage)) / len(passage)
                if share < 0.1 or share > 0.5:
                    found[share > 0.5].append(passage.strip()[:1000])
                passage = ""
    if not all(found.values()):
        fail(f"{source} has no Chinese or no other text")
    return found


def _changed(text: str, rng: random.Random) -> str:
    """The text with up to 8 % of its words changed."""
    share = rng.uniform(0, 0.08)
    words = rf"{HAN}|\w+?(?={HAN})|\w+"
    return re.sub(words, lambda found: rng.choice("甲乙丙丁戊己庚辛") if rng.random() < share else found[0], text)


def bench(arguments: argparse.Namespace) -> None:
    """Megabytes per second, the ratio to each peer, memory, and how many planted pairs are found."""
    results: dict[str, list[dict[str, Any]]] = {}
    for number in range(arguments.rounds + 1):  # the first compiles, and reads the files into the system's cache
        for system in SYSTEMS if number else ("fromzero",):
            python = sys.executable if system == "fromzero" else arguments.python
            command = [python, __file__, "one", system, str(arguments.folder)]
            done = subprocess.run(
                command, env=child_environment({"DO_NOT_TRACK": "1"}), stdout=subprocess.PIPE, text=True
            )
            if done.returncode:
                fail(f"{system} failed, as told above")
            result = json.loads(done.stdout.splitlines()[-1])
            print(f"round {number}: {system}", {k: v for k, v in result.items() if k != "versions"}, flush=True)
            if number:
                results.setdefault(system, []).append(result)
    rows = []
    for system, runs in results.items():
        ratios = sorted(ours["speed"] / run["speed"] for ours, run in zip(results["fromzero"], runs, strict=True))
        rows.append(
            [
                system,
                f"{statistics.median(run['speed'] for run in runs):.1f}",
                f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})",
                f"{statistics.median(run['memory'] for run in runs):.2f}",
                str(runs[0]["kept"]),
                *(f"{runs[0]['found'][key]:.3f}" for key in sorted(runs[0]["found"])),
            ]
        )
    expected = [f"{results['fromzero'][0]['expected'][key]:.3f}" for key in sorted(results["fromzero"][0]["expected"])]
    rows.append(["1 - (1 - s**8)**16", "", "", "", "", *expected])
    similar = [f"pairs {key}" for key in sorted(results["fromzero"][0]["found"])]
    header = ["system", "MB/s", "fromzero is faster by", "peak memory, GB", "kept", *similar]
    body = (
        f"{results['fromzero'][0]['documents']} documents, a quarter Chinese; 16 bands of 8 rows, runs of five words, "
        f"{core_count()} cores, {arguments.rounds} rounds in turn, medians. From Parquet files to the list of what is "
        f"kept. datatrove takes {PART:.0%} of the documents. `pairs`: the share of planted pairs of which one is "
        "dropped, by their Jaccard similarity.\n\n" + markdown_table(header, rows)
    )
    versions = {name: runs[0]["versions"][name] for name, runs in results.items() if name in PEERS}
    publish("deduplication", "Near duplicates", body, machine_lines(**versions), arguments.save)


def run_one(arguments: argparse.Namespace) -> None:
    """Time a system; prints JSON."""
    import importlib.metadata

    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as scratch:
        job = SYSTEMS[arguments.system](arguments.folder, Path(scratch))
        start = time.perf_counter()
        kept = job()
        seconds = time.perf_counter() - start
    memory = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    rows, size, present = 0, 0, set()
    for path in sorted(arguments.folder.glob("*.parquet")):
        texts = pq.read_table(path)["text"].to_pylist()
        part = texts[: round(PART * len(texts))] if arguments.system == "datatrove" else texts
        present |= set(range(rows, rows + len(part)))
        size += sum(len(text.encode()) for text in part)
        rows += len(texts)
    found: dict[str, list[tuple[bool, float]]] = {}
    for one, other, similarity in json.loads((arguments.folder / "truth.json").read_text()):
        if {one, other} <= present and 0.5 <= similarity < 0.9:
            tenth = int(similarity * 10)
            hit = not {one, other} <= kept
            found.setdefault(f".{tenth} to .{tenth + 1}", []).append((hit, 1 - (1 - similarity**8) ** 16))
    print(
        json.dumps(
            {
                "documents": len(present),
                "seconds": seconds,
                "speed": size / 1e6 / seconds,
                "memory": memory / 1e6,
                "kept": len(kept & present),
                "found": {key: statistics.mean(hit for hit, _ in pairs) for key, pairs in found.items()},
                "expected": {key: statistics.mean(chance for _, chance in pairs) for key, pairs in found.items()},
                "versions": {name: importlib.metadata.version(name) for name in [arguments.system]},
            }
        )
    )


def _texts(path: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(4096, columns=["text"]):
        yield from batch["text"].to_pylist()


def _fromzero(folder: Path, scratch: Path) -> Callable[[], set[int]]:
    import numpy as np
    import pyarrow.parquet as pq

    from fromzero.corpus.near_duplicates import MinHash, find_near_duplicates, preference, write_signatures

    def job() -> set[int]:
        paths = sorted(folder.glob("*.parquet"))
        files = [scratch / f"{path.stem}.npz" for path in paths]
        with ThreadPoolExecutor(core_count()) as pool:
            list(
                pool.map(
                    lambda pair: write_signatures(_texts(pair[0]), pair[1], MinHash()), zip(paths, files, strict=True)
                )
            )
        ids = [name for path in paths for name in pq.read_table(path, columns=["id"])["id"].to_pylist()]
        best = find_near_duplicates(files, MinHash(), preference(ids, np.zeros(len(ids))))
        return set(np.unique(best).tolist())

    return job


def _rensa(folder: Path, scratch: Path) -> Callable[[], set[int]]:
    from rensa import RMinHash, RMinHashLSH

    spaced, words = re.compile(f"({HAN})"), re.compile(r"\w+")

    def shingles(text: str) -> list[str]:
        found = words.findall(spaced.sub(r" \1 ", text.lower()))
        return [" ".join(found[i : i + 5]) for i in range(max(1, len(found) - 4))]

    def job() -> set[int]:
        index, flags = RMinHashLSH(threshold=0.7, num_perm=128, num_bands=16), []
        for path in sorted(folder.glob("*.parquet")):
            texts, batch = _texts(path), []
            for text in texts:
                batch.append(shingles(text))
                if len(batch) == 4096:
                    matrix = RMinHash.digest_matrix_from_token_sets(batch, 128, 42)
                    flags += index.insert_matrix_and_query_duplicate_flags(matrix, len(flags))
                    batch = []
            matrix = RMinHash.digest_matrix_from_token_sets(batch, 128, 42)
            flags += index.insert_matrix_and_query_duplicate_flags(matrix, len(flags))
        return {number for number, flag in enumerate(flags) if not flag}

    return job


def _daft(folder: Path, scratch: Path) -> Callable[[], set[int]]:
    import daft
    import numpy as np
    from daft import col

    def job() -> set[int]:
        text = col("text").lower().regexp_replace(f"({HAN})", " $1 ").regexp_replace(r"\s+", " ").strip()
        hashes = text.minhash(num_hashes=128, ngram_size=5, hash_function="xxhash")
        bands = hashes.chunk(8).list_map(daft.element().hash()).alias("key")
        daft.read_parquet(str(folder / "*.parquet")).select("id", bands).write_parquet(str(scratch / "signatures"))
        rows = daft.read_parquet(str(scratch / "signatures/*.parquet")).explode("key", index_column="band")
        groups = rows.groupby("band", "key").agg(col("id").min().alias("least"), col("id").list_agg().alias("ids"))
        pairs = groups.where(col("ids").list_count() > 1).select("least", "ids").explode("ids").distinct().to_pydict()
        ids = daft.read_parquet(str(folder / "*.parquet")).select("id").to_pydict()["id"]
        least, others = (np.array(pairs[name], int) for name in ("least", "ids"))
        parents = np.arange(len(ids))
        while True:  # each takes the least parent of its neighbours, until nothing changes
            before = parents.copy()
            np.minimum.at(parents, others, parents[least])
            np.minimum.at(parents, least, parents[others])
            if (before == parents).all():
                return set(np.unique(parents).tolist())

    return job


def _datatrove(folder: Path, scratch: Path) -> Callable[[], set[int]]:
    import pyarrow.parquet as pq
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.utils.hashing import HashConfig

    numbers: list[list[int]] = []
    (scratch / "in").mkdir()
    start = 0
    for path in sorted(folder.glob("*.parquet")):
        rows = pq.read_table(path)["text"].to_pylist()
        mine = rows[: round(PART * len(rows))]
        numbers.append(list(range(start, start + len(mine))))
        start += len(rows)
        spaced = [re.sub(f"({HAN})", r" \1 ", text) for text in mine]
        lines = (json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(spaced))
        (scratch / "in" / f"{path.stem}.jsonl").write_text("".join(lines))

    def job() -> set[int]:
        config = MinhashConfig(n_grams=5, num_buckets=16, hashes_per_bucket=8, hash_config=HashConfig(precision=64))
        signatures, buckets, clusters = (str(scratch / name) for name in ("signatures", "buckets", "clusters"))
        logs = iter([str(scratch / f"log{i}") for i in range(3)])
        for steps, tasks in (
            ([JsonlReader(str(scratch / "in")), MinhashDedupSignature(signatures, config)], FILES),
            ([MinhashDedupBuckets(signatures, buckets, config=config)], 16),
            ([MinhashDedupCluster(buckets, clusters, config=config)], 1),
        ):
            LocalPipelineExecutor(steps, tasks=tasks, workers=core_count(), logging_dir=next(logs)).run()
        gone = set()
        for file in range(FILES):
            removed = Path(clusters) / f"{file:06d}.remove"
            data = removed.read_bytes() if removed.exists() else b""
            gone |= {numbers[file][int.from_bytes(data[i : i + 4], "little")] for i in range(0, len(data), 4)}
        return {number for part in numbers for number in part} - gone

    return job


SYSTEMS = {"fromzero": _fromzero, "daft": _daft, "rensa": _rensa, "datatrove": _datatrove}


if __name__ == "__main__":
    os.environ.setdefault("DO_NOT_TRACK", "1")
    main()
