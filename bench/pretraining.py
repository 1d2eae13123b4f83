"""Training tokens per second of the same GPT-2-architecture model in fromzero, nanoGPT and transformers.

    python bench/pretraining.py --nanogpt FOLDER [--save] [--peers-tuned] [--layers 4 --width 256 ...]

Each system runs in a process of its own; the steps are interleaved round by round, so that whatever else the machine
does hits all of them alike. With identical weights the first losses must agree, or the bench fails.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import (
    ROOT,
    child_environment,
    core_count,
    fail,
    git_commit,
    machine_lines,
    markdown_table,
    nanogpt_folder,
    publish,
)

SYSTEMS = {
    "fromzero": "fromzero, GPT-2 architecture",
    "fromzero-gelu": "fromzero, GPT-2 with nanoGPT's exact GELU",
    "nanogpt": "nanoGPT",
    "transformers": "transformers GPT-2",
    "fromzero-llama": "fromzero, Llama architecture",
}
PEERS = ("nanogpt", "transformers")
TOLERANCE = 1e-4
DEFAULT_SHAPE = {"layers": 4, "width": 256, "heads": 4, "vocab": 8192, "context": 256, "batch": 16}


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


def start(job: dict[str, Any]) -> Worker:
    """Start a worker and wait until its model stands and its first loss is known."""
    command = [sys.executable, str(Path(__file__).with_name("pretraining_worker.py"))]
    environment = child_environment({"PYTHONWARNINGS": "ignore"})
    worker = Worker(
        subprocess.Popen(command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    worker.send(json.dumps(job))
    worker.first = worker.receive()
    return worker


def measure(
    shape: dict[str, int], dtype: str, nanogpt: Path, rounds: int, steps: int, tuned: bool
) -> dict[str, Worker]:
    """All systems in one dtype: a warm-up, then rounds in which each system runs `steps` steps in turn."""
    workers: dict[str, Worker] = {}
    try:
        for name in SYSTEMS:
            keep = name not in PEERS or tuned
            job = {"system": name, "dtype": dtype, "threads": core_count(), "keep_memory": keep, **shape}
            workers[name] = start({**job, "nanogpt": str(nanogpt)})
        for worker in workers.values():
            worker.run(2)
        order = list(workers)
        for number in range(rounds):
            shift = number % len(order)  # nobody always runs after the same neighbour
            for name in order[shift:] + order[:shift]:
                workers[name].seconds.append(workers[name].run(steps))
            figures = ", ".join(f"{name} {1e3 * workers[name].seconds[-1]:.0f}" for name in order)
            print(f"{dtype} round {number + 1}/{rounds}, ms per step: {figures}", file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.process.kill()
            worker.process.wait()
    return workers


def check_losses(workers: dict[str, Worker]) -> list[str]:
    """That the systems compute the same function: first losses with identical weights, in float32."""
    ours = workers["fromzero"].first
    pairs = {"nanogpt": ours["loss_exact_gelu"], "transformers": ours["loss"]}
    lines = []
    for name, expected in pairs.items():
        difference = abs(workers[name].first["loss"] - expected)
        gelu = "exact GELU" if name == "nanogpt" else "tanh GELU"
        loss = workers[name].first["loss"]
        lines.append(f"- {SYSTEMS[name]}: {loss:.6f}, fromzero with the same {gelu}: {expected:.6f}")
        if not difference <= TOLERANCE:
            fail(f"{name} computes something else: its first loss is {loss}, ours is {expected}")
    return lines


def ratios(worker: Worker, peer: Worker) -> list[float]:
    """How many times as fast as the peer, round by round."""
    return [theirs / ours for ours, theirs in zip(worker.seconds, peer.seconds, strict=True)]


def report(workers: dict[str, Worker], tokens: int) -> str:
    """Rates, peak memory, and fromzero's ratio to each peer with its spread over the rounds."""
    rows = []
    for name, worker in workers.items():
        rates = [tokens / seconds for seconds in worker.seconds]
        against = []
        for peer in PEERS:
            found = ratios(worker, workers[peer])
            spread = f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"
            against.append(spread if name not in PEERS else "")
        rate = f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}"
        rows.append([SYSTEMS[name], *rate, f"{worker.peak_bytes / 2**20:,.0f}", *against])
    header = ["system", "tokens/s", "slowest-fastest round", "peak MiB", *(f"x {SYSTEMS[peer]}" for peer in PEERS)]
    return markdown_table(header, rows)


def best_dtype(results: dict[str, dict[str, Worker]], name: str) -> str:
    """The dtype in which a system is faster on this machine."""
    return min(results, key=lambda dtype: statistics.median(results[dtype][name].seconds))


def headline(results: dict[str, dict[str, Worker]]) -> str:
    """fromzero against the faster peer, each system in the dtype that suits it best here."""
    chosen = {peer: best_dtype(results, peer) for peer in PEERS}
    peer = min(PEERS, key=lambda p: statistics.median(results[chosen[p]][p].seconds))
    same = "fromzero-gelu" if peer == "nanogpt" else "fromzero"  # the same function as that peer computes
    ours = best_dtype(results, same)
    found = ratios(results[ours][same], results[chosen[peer]][peer])
    note = "" if ours == chosen[peer] else "; the rounds of two dtypes are not interleaved with one another"
    return (
        f"**fromzero ({ours}) trains {statistics.median(found):.2f} times as fast as {SYSTEMS[peer]} "
        f"({chosen[peer]}), the faster of the peers** (rounds: {min(found):.2f} to {max(found):.2f}{note})."
    )


def quickstart_shape() -> dict[str, int]:
    """The shape of the quickstart's model: from its recipe, or the one that it had when this was written."""
    shape, recipe = dict(DEFAULT_SHAPE), ROOT / "recipes" / "quickstart.yaml"
    if not recipe.exists():
        return shape
    import yaml

    for stage in yaml.safe_load(recipe.read_text(encoding="utf-8"))["stages"].values():
        if stage.get("verb") == "pretrain":
            model, train = stage.get("model") or {}, stage.get("train") or {}
            shape |= {key: model[key] for key in ("layers", "width", "heads", "context") if key in model}
            shape["batch"] = train.get("micro_batch_size") or train.get("batch_size") or shape["batch"]
        elif stage.get("verb") == "tokenizer train":
            shape["vocab"] = stage.get("vocab_size", shape["vocab"])
    return shape


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="checkout of karpathy/nanoGPT (or set NANOGPT)")
    for name, value in quickstart_shape().items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"of the model or batch; default {value}")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds in each dtype")
    parser.add_argument("--steps", type=int, default=3, help="steps of each system in a round")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--peers-tuned", action="store_true", help="give the peers our allocator setting too")
    parser.add_argument("--save", action="store_true", help="write bench/results/pretraining.md")
    return parser.parse_args()


def main() -> None:
    """Measure, check, print."""
    options = arguments()
    nanogpt = nanogpt_folder(options.nanogpt)
    shape = {name: getattr(options, name) for name in DEFAULT_SHAPE}
    run = (nanogpt, options.rounds, options.steps, options.peers_tuned)
    results = {dtype: measure(shape, dtype, *run) for dtype in options.dtypes}
    tokens = shape["batch"] * shape["context"]
    parts = [
        f"Shape: {', '.join(f'{name} {value}' for name, value in shape.items())}. {options.rounds} interleaved rounds "
        f"of {options.steps} steps; medians. Peers run "
        + ("with our allocator setting as well." if options.peers_tuned else "as they are published."),
        headline(results),
    ]
    for dtype, workers in results.items():
        faster = "" if len(results) == 1 or best_dtype(results, "fromzero") != dtype else " (faster for fromzero here)"
        parts += [f"## {dtype}{faster}", report(workers, tokens)]
    if "float32" in results:
        parts += ["## The same function", "First loss with identical weights and batch, float32:"]
        parts.append("\n".join(check_losses(results["float32"])))
    versions = {"nanoGPT": git_commit(nanogpt), "transformers": importlib.metadata.version("transformers")}
    name = "pretraining-peers-tuned" if options.peers_tuned else "pretraining"
    publish(name, "Training speed", "\n\n".join(parts), machine_lines(**versions), options.save)


if __name__ == "__main__":
    main()
