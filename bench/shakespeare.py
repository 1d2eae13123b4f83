"""Quality for the time: character-level Shakespeare in nanoGPT and in fromzero, same text, same split, same minutes.

    python bench/shakespeare.py --nanogpt FOLDER --text input.txt [--minutes 3] [--save]

One after the other: nanoGPT's CPU recipe as its README has it, fromzero's recipe with as many steps as the minutes
allow, and nanoGPT's recipe again with as many iterations as the minutes allow. Times are those of the whole training
process, from its start to its end. Losses are over the whole validation split, in nats per character.
"""

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from common import ROOT, child_environment, fail, git_commit, machine_lines, markdown_table, nanogpt_folder, publish
from fromzero.recipe import Stage, read_stages

ITERATIONS = 2000
# From nanoGPT's README, "I only have a macbook (or other cheap computer)".
README_FLAGS = (
    *("--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=1", "--block_size=64", "--batch_size=12"),
    *("--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0"),
)
EVALUATION_INTERVAL = 250  # of its config; the iterations of a run end on one, so that the last weights are looked at
NANOGPT_FILES = (
    "train.py",
    "model.py",
    "configurator.py",
    "config/train_shakespeare_char.py",
    "data/shakespeare_char/prepare.py",
)
CALIBRATION_STEPS = 60


@dataclass(frozen=True)
class Result:
    """One trained model."""

    system: str
    steps: int
    seconds: float
    nats: float
    """Per character, over the whole validation split."""
    characters: int
    """How many of them were scored."""


def run_timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Seconds and standard output of a child that must succeed."""
    started = time.perf_counter()
    child = subprocess.run(command, cwd=folder, env=child_environment(), stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    if child.returncode:
        fail(f"`{' '.join(command[:4])} ...` ended with exit code {child.returncode}; its message is above")
    return seconds, child.stdout


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
    run_timed([sys.executable, "data/shakespeare_char/prepare.py"], folder)


def train_nanogpt(folder: Path, iterations: int, label: str) -> Result:
    """Its recipe with so many iterations (2000 as published), and the loss of the checkpoint that it kept."""
    out = f"out-{iterations}"
    length = [f"--max_iters={iterations}", f"--lr_decay_iters={iterations}", f"--out_dir={out}"]
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *README_FLAGS, *length]
    print(f"nanoGPT: {iterations} iterations", file=sys.stderr)
    seconds, _ = run_timed(command, folder)
    nats, characters = score_nanogpt(folder, folder / out / "ckpt.pt")
    return Result(f"nanoGPT, {label}", iterations, seconds, nats, characters)


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
        self.published_steps: int = stage_of(recipe, "pretrain").settings["train"]["steps"]
        self.changes: dict[str, Any] = {f"{self.corpus}.inputs": [str(text)]}
        self.run(self.corpus, self.tokens)

    def run(self, first: str, last: str, **changes: Any) -> float:
        """Seconds of the stages from `first` to `last`."""
        settings = json.dumps(self.changes | {key.replace("__", "."): value for key, value in changes.items()})
        chosen = ["--from", first, "--until", last, "--output", str(self.folder), "--set", settings]
        return run_timed([sys.executable, "-m", "fromzero", "run", str(self.recipe), *chosen], self.folder.parent)[0]

    def steps_within(self, seconds: float) -> int:
        """How many steps fit, judged by two short runs: what a step takes, and what the process takes besides."""
        short, long = (self._calibrate(steps) for steps in (CALIBRATION_STEPS, 3 * CALIBRATION_STEPS))
        per_step = (long - short) / (2 * CALIBRATION_STEPS)
        overhead = max(0.0, short - CALIBRATION_STEPS * per_step)
        # Looks and checkpoints on the way, which the short runs hardly have, take a few percent.
        return max(1, int(0.95 * (seconds - overhead) / max(per_step, 1e-6)))

    def _calibrate(self, steps: int) -> float:
        output = {f"{self.base}__output": str(self.folder.parent / f"calibration-{steps}")}
        return self.run(self.base, self.base, **output, **{f"{self.base}__train__steps": steps})

    def train(self, steps: int, label: str) -> Result:
        """Train that many steps and score the whole validation split."""
        print(f"fromzero: {steps} steps", file=sys.stderr)
        self.changes[f"{self.base}.train.steps"] = steps
        seconds = self.run(self.base, self.base)
        self.run(self.scores, self.scores)
        model = json.loads((self.folder / self.scores / "scores.json").read_text(encoding="utf-8"))["model"]
        return Result(f"fromzero, {label}", steps, seconds, model["nats_per_character"], model["characters"])

    def looks(self) -> list[tuple[int, float]]:
        """(step, validation loss) at each look during training; of a part of the split."""
        lines = (self.folder / self.base / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found = [line for line in map(json.loads, lines) if line["kind"] == "look"]
        return [(line["step"], line["validation_loss"]) for line in found]


def seconds_to_reach(looks: list[tuple[int, float]], nats: float, result: Result) -> float | None:
    """When the validation loss first was at most `nats`, taking all steps as equally long; None if it never was."""
    step = next((step for step, loss in looks if loss <= nats), None)
    return None if step is None else result.seconds * step / result.steps


def report(results: list[Result], reached: float | None) -> str:
    """The table, and what it says."""
    ours = next(result for result in results if result.system.startswith("fromzero"))
    rows = [
        [
            r.system,
            f"{r.steps:,}",
            f"{r.seconds:.0f}",
            f"{r.nats:.4f}",
            f"{ours.nats / r.nats:.3f}",
            f"{r.characters:,}",
        ]
        for r in results
    ]
    header = ["system", "steps", "seconds", "nats per character", "fromzero's / its", "characters scored"]
    peers = [result for result in results if result is not ours]
    best = min(peers, key=lambda result: result.nats)
    parts = [
        f"**fromzero reaches {ours.nats:.3f} nats per character in {ours.seconds:.0f} s of training; "
        f"nanoGPT reaches {best.nats:.3f} in {best.seconds:.0f} s** ({best.system.split(', ')[1]}).",
        markdown_table(header, rows),
    ]
    if reached is not None:
        parts.append(
            f"fromzero's validation loss passed that of nanoGPT's recipe as published ({peers[0].nats:.3f}, which took "
            f"it {peers[0].seconds:.0f} s) at a look after about {reached:.0f} s."
        )
    return "\n\n".join(parts)


def compare(checkout: Path, text: Path, seconds: float, folder: Path) -> str:
    """Run everything in `folder`; seconds 0 runs both recipes as they are published."""
    peer = folder / "nanogpt"
    prepare_nanogpt(checkout, text, peer)
    ours = OurRecipe(find_recipe(), text, folder / "fromzero")
    results = [train_nanogpt(peer, ITERATIONS, "as published")]
    if seconds:
        minutes = f"{seconds / 60:.3g} minutes"
        mine = ours.train(ours.steps_within(seconds), f"steps for {minutes}")
        fitting = int(ITERATIONS * seconds / results[0].seconds / EVALUATION_INTERVAL) * EVALUATION_INTERVAL
        if fitting not in (0, ITERATIONS):
            results.append(train_nanogpt(peer, fitting, f"iterations for {minutes}"))
    else:
        mine = ours.train(ours.published_steps, "as published")
    results.append(mine)
    return report(results, seconds_to_reach(ours.looks(), results[0].nats, mine))


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
    parser.add_argument("--minutes", type=float, default=3.0, help="of training for each; 0 runs both as published")
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
        body = compare(checkout, text, 60 * options.minutes, folder)
    machine = machine_lines(nanoGPT=git_commit(checkout))
    publish("shakespeare", "Quality for the time: character-level Shakespeare", body, machine, options.save)


if __name__ == "__main__":
    main()
