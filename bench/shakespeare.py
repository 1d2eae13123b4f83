"""Quality for the minutes: character-level Shakespeare, fromzero against nanoGPT with three times the minutes.

    python bench/shakespeare.py --nanogpt FOLDER --text input.txt [--minutes 3 10] [--save]

Same text, same split. Each training has one core for itself, two at a time, the longest first: nanoGPT's CPU recipe as
its README has it, with as many iterations as three times the minutes allow, and fromzero's recipe with as many steps as
the minutes allow. Times are those of the whole training process, from its start to its end. Losses are over the whole
validation split, in bits per byte (of this text, a byte is a character).
"""

import argparse
import importlib.util
import json
import math
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from common import ROOT, child_environment, fail, git_commit, machine_lines, markdown_table, nanogpt_folder, publish
from fromzero.recipe import Stage, read_stages

HANDICAP = 3  # nanoGPT's minutes for each of ours
# From nanoGPT's README, "I only have a macbook (or other cheap computer)".
README_FLAGS = (
    *("--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1", "--block_size=64", "--batch_size=12"),
    *("--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0"),
)
LONGER = {"model.width": 192, "model.heads": 6}
"""What the recipe changes when there are 10 minutes or more."""
EVALUATION_INTERVAL = 250  # of its config; the iterations of a run end on one, so that the last weights are looked at
NANOGPT_FILES = (
    "train.py",
    "model.py",
    "configurator.py",
    "config/train_shakespeare_char.py",
    "data/shakespeare_char/prepare.py",
)
CALIBRATION_STEPS = 40
CALIBRATION_ITERATIONS = 500


@dataclass(frozen=True)
class Result:
    """One trained model."""

    system: str
    steps: int
    seconds: float
    bits: float
    """Per byte, over the whole validation split."""
    characters: int
    """How many of them were scored."""


def run_timed(command: list[str], folder: Path, core: int) -> float:
    """Seconds of a child that must succeed, on one core."""
    started = time.perf_counter()
    environment = child_environment() | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    os.sched_setaffinity(child.pid, {core})
    if child.wait():
        fail(f"`{' '.join(command[:4])} ...` ended with exit code {child.returncode}; its message is above")
    return time.perf_counter() - started


# nanoGPT


def prepare_nanogpt(checkout: Path, text: Path, folder: Path) -> None:
    """A copy of what its recipe needs, with its data prepared by its own script from the text."""
    for name in NANOGPT_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout / name, folder / name)
    data = folder / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    # prepare.py imports requests for a download that the text makes unnecessary; an empty module will do.
    (data / "requests.py").write_text("", encoding="utf-8")
    run_timed([sys.executable, "data/shakespeare_char/prepare.py"], folder, 0)


def iterations_within(folder: Path, seconds: float, core: int) -> int:
    """How many of its iterations fit, judged by two short runs, in whole intervals of its evaluation."""
    short, long = (run_nanogpt(folder, count * CALIBRATION_ITERATIONS, core) for count in (1, 3))
    each = (long - short) / (2 * CALIBRATION_ITERATIONS)
    overhead = max(0.0, short - CALIBRATION_ITERATIONS * each)
    return max(1, round((seconds - overhead) / each / EVALUATION_INTERVAL)) * EVALUATION_INTERVAL


def run_nanogpt(folder: Path, iterations: int, core: int) -> float:
    """Seconds of its recipe with so many iterations (2000 as published)."""
    length = [f"--max_iters={iterations}", f"--lr_decay_iters={iterations}", f"--out_dir=out-{iterations}"]
    print(f"nanoGPT: {iterations} iterations", file=sys.stderr)
    return run_timed(
        [sys.executable, "train.py", "config/train_shakespeare_char.py", *README_FLAGS, *length], folder, core
    )


def train_nanogpt(folder: Path, iterations: int, minutes: float, core: int) -> Result:
    """Its recipe, and the loss of the checkpoint that it kept."""
    seconds = run_nanogpt(folder, iterations, core)
    nats, characters = score_nanogpt(folder, folder / f"out-{iterations}" / "ckpt.pt")
    return Result(f"nanoGPT, {minutes:g} minutes", iterations, seconds, nats / math.log(2), characters)


def score_nanogpt(folder: Path, checkpoint: Path) -> tuple[float, int]:
    """Mean nats of each character of its validation split, in windows of its context that begin where the last ended.

    The character before the split is the context of its first one, so that all of them are scored.
    """
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)  # our own run made it
    model = module.GPT(module.GPTConfig(**saved["model_args"])).eval()
    model.load_state_dict(saved["model"])
    data = folder / "data" / "shakespeare_char"
    train, validation = (
        torch.frombuffer(bytearray((data / f"{split}.bin").read_bytes()), dtype=torch.int16).long()
        for split in ("train", "val")
    )
    ids = torch.cat([train[-1:], validation])
    context, total = saved["model_args"]["block_size"], 0.0
    with torch.inference_mode():
        for start in range(0, len(validation), context):
            targets = ids[start + 1 : start + 1 + context]
            # Its forward gives the logits of every position only when it is given targets.
            logits, _ = model(ids[start : start + len(targets)][None], targets[None])
            total += float(F.cross_entropy(logits[0], targets, reduction="sum"))
    return total / len(validation), len(validation)


# fromzero


def find_recipe() -> Path:
    """The recipe of the repository."""
    return ROOT / "recipes" / "shakespeare-char.yaml"


def stage_of(recipe: Path, verb: str) -> Stage:
    """The stage of the recipe that has a verb."""
    return next(stage for stage in read_stages(recipe) if stage.verb == verb)


class OurRecipe:
    """fromzero's recipe in a folder: run in parts, so that only training is timed."""

    def __init__(self, recipe: Path, text: Path, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        verbs = ("corpus build", "pack", "pretrain", "evaluate perplexity")
        self.corpus, self.tokens, self.base, self.scores = (stage_of(recipe, verb).name for verb in verbs)
        self.text = {f"{self.corpus}.inputs": [str(text)]}
        self.run(0, self.corpus, self.tokens, {})

    def run(self, core: int, first: str, last: str, changes: dict[str, Any]) -> float:
        """Seconds of the stages from `first` to `last`."""
        chosen = [
            "--from",
            first,
            "--until",
            last,
            "--output",
            str(self.folder),
            "--set",
            json.dumps(self.text | changes),
        ]
        return run_timed([sys.executable, "-m", "fromzero", "run", str(self.recipe), *chosen], self.folder.parent, core)

    def settings(self, minutes: float) -> dict[str, Any]:
        """Of the base, for these minutes."""
        return {f"{self.base}.{name}": value for name, value in (LONGER if minutes >= 10 else {}).items()}

    def steps_within(self, minutes: float, core: int) -> int:
        """How many steps fit, judged by two short runs: what a step takes, and what the process takes besides."""
        short, long = (self._calibrate(minutes, steps, core) for steps in (CALIBRATION_STEPS, 3 * CALIBRATION_STEPS))
        per_step = (long - short) / (2 * CALIBRATION_STEPS)
        overhead = max(0.0, short - CALIBRATION_STEPS * per_step)
        # Looks and checkpoints on the way, which the short runs hardly have, take a few percent.
        return max(1, int(0.95 * (60 * minutes - overhead) / max(per_step, 1e-6)))

    def _calibrate(self, minutes: float, steps: int, core: int) -> float:
        where = {f"{self.base}.output": str(self.folder / f"calibration-{minutes:g}-{steps}")}
        length = {f"{self.base}.train.steps": steps}
        return self.run(core, self.base, self.base, self.settings(minutes) | where | length)

    def train(self, steps: int, minutes: float, core: int) -> Result:
        """Train that many steps and score the whole validation split."""
        print(f"fromzero: {steps} steps", file=sys.stderr)
        base, scores = (self.folder / f"{name}-{minutes:g}" for name in (self.base, self.scores))
        changes = self.settings(minutes) | {f"{self.base}.train.steps": steps, f"{self.base}.output": str(base)}
        changes |= {f"{self.scores}.output": str(scores), f"{self.scores}.model": str(base)}
        seconds = self.run(core, self.base, self.base, changes)
        self.run(core, self.scores, self.scores, changes)
        model = json.loads((scores / "scores.json").read_text(encoding="utf-8"))["model"]
        bits = model["nats_per_character"] / math.log(2)
        return Result(f"fromzero, {minutes:g} minutes", steps, seconds, bits, model["characters"])


def report(results: dict[str, Result], minutes: list[float]) -> str:
    """The table, and what it says."""
    rows = [
        [r.system, f"{r.steps:,}", f"{r.seconds:.0f}", f"{r.bits:.4f}", f"{r.characters:,}"] for r in results.values()
    ]
    said = []
    for number in minutes:
        ours, theirs = results[f"fromzero {number:g}"], results[f"nanogpt {number:g}"]
        said.append(
            f"{ours.bits:.3f} in {ours.seconds:.0f} s where nanoGPT reaches {theirs.bits:.3f} in {theirs.seconds:.0f} s"
        )
    table = markdown_table(["system", "steps", "seconds", "bits per byte", "characters scored"], rows)
    return f"**fromzero reaches {'; '.join(said)}.**\n\n{table}"


def compare(checkout: Path, text: Path, minutes: list[float], folder: Path) -> str:
    """Run everything in `folder`: first how fast both are beside each other, then the trainings, the longest first."""
    peer = folder / "nanogpt"
    prepare_nanogpt(checkout, text, peer)
    ours = OurRecipe(find_recipe(), text, folder / "fromzero")
    cores: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:2]:
        cores.put(core)

    def on_a_core(job: Callable[..., Any], *arguments: Any) -> Any:
        core = cores.get()
        try:
            return job(*arguments, core)
        finally:
            cores.put(core)

    with ThreadPoolExecutor() as pool:
        fitting = {m: pool.submit(on_a_core, ours.steps_within, m) for m in minutes}
        speed = pool.submit(on_a_core, iterations_within, peer, 60 * HANDICAP * max(minutes))
        most = speed.result()
        jobs = {}
        for m in sorted(minutes, reverse=True):
            iterations = round(most * m / max(minutes) / EVALUATION_INTERVAL) * EVALUATION_INTERVAL
            jobs[f"nanogpt {m:g}"] = pool.submit(on_a_core, train_nanogpt, peer, iterations, HANDICAP * m)
        for m in sorted(minutes, reverse=True):
            jobs[f"fromzero {m:g}"] = pool.submit(on_a_core, ours.train, fitting[m].result(), m)
        return report({name: job.result() for name, job in jobs.items()}, minutes)


def checked_text(path: Path) -> Path:
    """The text, in which every character must be one byte: fromzero's tokens are bytes, nanoGPT's are characters."""
    if not path.is_file():
        fail(f"--text {path}: no such file; tiny Shakespeare is data/tinyshakespeare/input.txt of karpathy/char-rnn")
    if not (content := path.read_bytes()).isascii() or re.search(rb"\r", content):
        fail(f"{path} has characters beyond ASCII or carriage returns; a byte must be a character here")
    return path.resolve()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="checkout of karpathy/nanoGPT (or set NANOGPT)")
    parser.add_argument("--text", type=Path, default=Path("input.txt"), help="tiny Shakespeare, or any ASCII text")
    parser.add_argument("--minutes", type=float, nargs="+", default=[3.0, 10.0], help="of training for fromzero")
    parser.add_argument("--save", action="store_true", help="write bench/results/shakespeare.md")
    return parser.parse_args()


def main() -> None:
    """Train, score, print."""
    options = arguments()
    checkout, source = nanogpt_folder(options.nanogpt), checked_text(options.text)
    with tempfile.TemporaryDirectory(prefix="bench-shakespeare-") as name:
        folder = Path(name)
        text = folder / "text" / "input.txt"
        text.parent.mkdir()
        shutil.copy(source, text)
        body = compare(checkout, text, options.minutes, folder)
    machine = machine_lines(nanoGPT=git_commit(checkout))
    publish("shakespeare", "Quality for the minutes: character-level Shakespeare", body, machine, options.save)


if __name__ == "__main__":
    main()
