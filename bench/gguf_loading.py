"""Opening a GGUF file in fromzero, and what that has to cost: reading it and turning its blocks into numbers once.

    python bench/gguf_loading.py MODEL.gguf [--rounds 5] [--transformers] [--save]

Each run is a process of its own, timed after imports, and systems take turns. The gguf package reads all tensors and
dequantises them, no more; fromzero (weights) gives the same numbers under its names, with rotary rows in its order;
fromzero (model) is a model that can be asked. Memory is the most that the process held, less what it held before.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import child_environment, fail, machine_lines, markdown_table, publish

PEER = "gguf package"
Load = Callable[[Path], object]


def main() -> None:
    """Run all systems, or one (for itself)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--transformers", action="store_true", help="measure it too, once")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--one", choices=[*SYSTEMS, "transformers"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.file.is_file():
        fail(f"{arguments.file}: no such file; name a GGUF file")
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.file)))
    else:
        bench(arguments)


def measure(system: str, file: Path) -> dict[str, float]:
    """Seconds and megabytes of one run, after imports."""
    load = {**SYSTEMS, "transformers": with_transformers}[system]()
    before, start = _peak(), time.perf_counter()
    kept = load(file)
    seconds = time.perf_counter() - start
    assert kept is not None
    return {"seconds": seconds, "megabytes": _peak() - before}


def with_gguf() -> Load:
    """All numbers, by the package of the format's authors."""
    import gguf

    return lambda file: [gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(file).tensors]


def with_weights() -> Load:
    """All numbers, by fromzero."""
    from fromzero.interop.gguf import load_gguf

    return lambda file: dict(load_gguf(file)[1])


def with_model() -> Load:
    """A model."""
    import fromzero.interop.gguf
    from fromzero.interop import load_model

    assert fromzero.interop.gguf
    return load_model


def with_transformers() -> Load:
    """A model of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    return lambda file: AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)


def bench(arguments: argparse.Namespace) -> None:
    """Interleaved rounds, and the table."""
    found: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
    for round_number in range(arguments.rounds):
        order = list(SYSTEMS)
        for system in order[round_number % len(order) :] + order[: round_number % len(order)]:
            found[system].append(_child(system, arguments.file))
    if arguments.transformers:
        found["transformers"] = [_child("transformers", arguments.file)]
    rows = []
    for system, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        ratios = [s / peer["seconds"] for s, peer in zip(seconds, found[PEER], strict=False)]
        rows.append([
            system, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}",
            f"{statistics.median(ratios):.2f}", f"{statistics.median(run['megabytes'] for run in runs):.0f}",
        ])  # fmt: skip
    table = markdown_table(["system", "seconds", "spread", "times the package", "peak MB"], rows)
    size = arguments.file.stat().st_size / 1e6
    body = f"{arguments.file.name}, {size:.1f} MB, {arguments.rounds} rounds.\n\n{table}"
    publish("gguf-loading", "Opening a GGUF file", body, machine_lines(), arguments.save)


def _child(system: str, file: Path) -> dict[str, float]:
    line = [sys.executable, __file__, str(file), "--one", system]
    out = subprocess.run(line, env=child_environment(), capture_output=True, text=True, check=True).stdout
    result: dict[str, float] = json.loads(out.splitlines()[-1])
    return result


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


SYSTEMS = {PEER: with_gguf, "fromzero (weights)": with_weights, "fromzero (model)": with_model}

if __name__ == "__main__":
    main()
