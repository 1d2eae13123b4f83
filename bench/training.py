"""Training tokens per second and memory: fromzero beside nanoGPT, nanochat, litgpt and transformers' Trainer.

    python bench/training.py --nanogpt FOLDER --nanochat FOLDER --litgpt PYTHON [--save] [--sizes 10m 50m 124m]

Each system runs in a process of its own; the steps are interleaved round by round, so that whatever else the machine
does hits all of them alike. With identical weights the first losses must agree, or the bench fails.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import child_environment, core_count, fail, git_commit, machine_lines, markdown_table, publish

SHAPES = {
    "10m": {"layers": 6, "width": 320, "heads": 5, "vocab": 8192, "context": 256, "batch": 8},
    "50m": {"layers": 8, "width": 640, "heads": 10, "vocab": 16384, "context": 256, "batch": 8},
    "124m": {"layers": 12, "width": 768, "heads": 12, "vocab": 50304, "context": 256, "batch": 4},
}
OURS = {
    "fromzero": "fromzero, GPT-2 architecture",
    "fromzero-llama-compiled": "fromzero, Llama architecture, compiled",
    "fromzero-muon-compiled": "fromzero, Llama architecture, Muon, compiled",
}
PEERS = {"nanogpt": "nanoGPT", "transformers": "transformers Trainer, GPT-2", "litgpt": "litgpt, Llama architecture",
         "nanochat": "nanochat"}  # fmt: skip
SAME = {"nanogpt": "fromzero", "transformers": "fromzero", "litgpt": "fromzero-llama-compiled",
        "nanochat": "fromzero-muon-compiled"}  # fmt: skip
"""The system of ours that a peer is compared with: architecture, optimizer and compiling as like as they can be. Those
that are compared run at the same time, others do not: seven models of 124 million parameters would not fit a laptop."""
TOLERANCE = 1e-4


@dataclasses.dataclass
class Worker:
    """A child process that trains one system when it is told to."""

    process: "subprocess.Popen[str]"
    first: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: list[float] = dataclasses.field(default_factory=list)
    """Per step, one figure a round."""
    peak_bytes: int = 0

    def send(self, line: str) -> None:
        """One line to the child."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The child's answer; ends the bench when the child died."""
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            fail(f"a worker ended with exit code {self.process.wait()}; its message is above")
        return json.loads(line)

    def run(self, steps: int) -> float:
        """Seconds per step of so many steps."""
        self.send(str(steps))
        answer = self.receive()
        self.peak_bytes = answer["peak_bytes"]
        return answer["seconds"] / steps


def start(job: dict[str, Any], python: str) -> Worker:
    """Start a worker and wait until its model stands and its first loss is known."""
    command = [python, str(Path(__file__).with_name("training_worker.py"))]
    environment = child_environment({"PYTHONWARNINGS": "ignore"})
    worker = Worker(
        subprocess.Popen(command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    worker.send(json.dumps(job))
    worker.first = worker.receive()
    return worker


def measure(shape: dict[str, int], dtype: str, options: argparse.Namespace, systems: list[str]) -> dict[str, Worker]:
    """All systems in one dtype: a warm-up, then rounds in which each system runs some steps in turn."""
    workers: dict[str, Worker] = {}
    common = {"dtype": dtype, "threads": core_count(), "compiled": not options.uncompiled, **shape}
    try:
        for name in systems:
            python = str(options.litgpt) if name == "litgpt" else sys.executable
            job = {"system": name, "keep_memory": name in OURS or name == "fromzero-gelu", **common}
            workers[name] = start({**job, "checkout": str(getattr(options, name, ""))}, python)
            workers[name].run(2)
        for number in range(options.rounds):
            shift = number % len(systems)  # nobody always runs after the same neighbour
            for name in systems[shift:] + systems[:shift]:
                workers[name].seconds.append(workers[name].run(options.steps))
            figures = ", ".join(f"{name} {1e3 * workers[name].seconds[-1]:.0f}" for name in systems)
            print(f"{dtype} round {number + 1}/{options.rounds}, ms per step: {figures}", file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.wait()
    return workers


def check_losses(workers: dict[str, Worker], shape: dict[str, int], options: argparse.Namespace) -> str:
    """That systems with the same weights compute the same function, and the others start from ignorance."""
    job = {"system": "fromzero-gelu", "keep_memory": False, "dtype": "float32", "threads": core_count(), **shape}
    exact = start({**job, "compiled": False}, sys.executable)
    exact.process.kill()
    expected = {"nanogpt": exact.first["loss"], "transformers": workers["fromzero"].first["loss"]}
    lines = []
    for name, ours in expected.items():
        if name in workers:
            loss = workers[name].first["loss"]
            lines.append(f"{PEERS[name]} {loss:.6f} and fromzero {ours:.6f}")
            if not abs(loss - ours) <= TOLERANCE:
                fail(f"{name} computes something else: its first loss is {loss}, ours is {ours}")
    if "litgpt" in workers and abs(workers["litgpt"].first["loss"] - math.log(shape["vocab"])) > 1.5:
        fail(f"litgpt starts from a loss of {workers['litgpt'].first['loss']}")
    return f"First loss with identical weights and batch, float32: {'; '.join(lines)}."


def ratios(worker: Worker, peer: Worker) -> list[float]:
    """How many times as fast as the peer, round by round."""
    return [theirs / ours for ours, theirs in zip(worker.seconds, peer.seconds, strict=True)]


def spread(found: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def report(workers: dict[str, Worker], tokens: int) -> str:
    """Rates and peak memory, and of each peer how many times as fast and as large as it the like of ours is."""
    rows = []
    for name, worker in workers.items():
        rates = [tokens / seconds for seconds in worker.seconds]
        rate = f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}"
        against = ["", "", ""]
        if name in PEERS:
            ours = workers[SAME[name]]
            against = [SAME[name], spread(ratios(ours, worker)), f"{ours.peak_bytes / worker.peak_bytes:.2f}"]
        size = f"{worker.first['parameters'] / 1e6:.1f}"
        label = {**OURS, **PEERS}[name]
        rows.append([label, size, *rate, f"{worker.peak_bytes / 2**20:,.0f}", *against])
    header = ["system", "M parameters", "tokens/s", "slowest-fastest round", "peak MiB", "beside it", "speed", "memory"]
    return markdown_table(header, rows)


def headline(workers: dict[str, Worker], size: str, dtype: str) -> str:
    """fromzero's faster architecture against the fastest peer."""
    peer = min((name for name in workers if name in PEERS), key=lambda n: statistics.median(workers[n].seconds))
    found = ratios(workers[SAME[peer]], workers[peer])
    return f"| {size} {dtype} | {PEERS[peer]} | {SAME[peer]} | {spread(found)} |"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="checkout of karpathy/nanoGPT")
    parser.add_argument("--nanochat", type=Path, help="checkout of karpathy/nanochat")
    parser.add_argument("--litgpt", type=Path, help="python of an environment with litgpt, whose pins differ from ours")
    parser.add_argument("--sizes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds in each dtype")
    parser.add_argument("--steps", type=int, default=2, help="steps of each system in a round")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument(
        "--uncompiled", action="store_true", help="peers without torch.compile, also where they have it"
    )
    parser.add_argument("--save", action="store_true", help="write bench/results/training.md")
    return parser.parse_args()


def main() -> None:
    """Measure, check, print."""
    options = arguments()
    systems = [name for name in PEERS if name == "transformers" or getattr(options, name, None)]
    parts, heads = [], ["| size | fastest peer | beside it | times as fast |", "|---|---|---|---|"]
    for size in options.sizes:
        shape = SHAPES[size]
        for dtype in options.dtypes:
            workers: dict[str, Worker] = {}
            for ours in OURS:
                if peers := [name for name in systems if SAME.get(name) == ours]:
                    workers |= measure(shape, dtype, options, [ours, *peers])
            heads.append(headline(workers, size, dtype))
            parts += [f"## {size}, {dtype}", report(workers, shape["batch"] * shape["context"])]
            if dtype == "float32":
                parts.append(check_losses(workers, shape, options))
    shapes = "; ".join(f"{size}: {', '.join(f'{k} {v}' for k, v in SHAPES[size].items())}" for size in options.sizes)
    how = "uncompiled" if options.uncompiled else "compiled where their own scripts do so on a CPU (litgpt, nanochat)"
    intro = f"{options.rounds} interleaved rounds of {options.steps} steps; medians. Peers are {how}. {shapes}."
    versions = {"transformers": importlib.metadata.version("transformers")}
    versions |= {name: git_commit(getattr(options, name)) for name in ("nanogpt", "nanochat") if name in systems}
    if "litgpt" in systems:
        line = "import importlib.metadata as m; print(m.version('litgpt'))"
        versions["litgpt"] = subprocess.check_output([options.litgpt, "-c", line], text=True).strip()
    name = "training-uncompiled" if options.uncompiled else "training"
    body = "\n\n".join([intro, "\n".join(heads), *parts])
    publish(name, "Training speed", body, machine_lines(**versions), options.save)


if __name__ == "__main__":
    main()
