"""What a checkpoint costs the training loop: windows of steps with one beside windows without.

    python bench/checkpoints.py [--size 10m] [--dtype float32] [--rounds 12] [--steps 5] [--save]

fromzero alone, in its own Trainer: in each round so many steps with a checkpoint begun before the first of them, and as
many without. A checkpoint's cost is the difference: the copy that the loop waits for, and what the thread that writes,
hashes and syncs takes from the steps beside it. Shares are of 100 steps.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from common import core_count, machine_lines, markdown_table, publish
from fromzero.console import console
from fromzero.device import DTYPES, keep_freed_memory
from fromzero.model import ModelConfig, Transformer
from fromzero.training import TrainConfig, Trainer
from fromzero.training.metrics import MetricsLog
from training import SHAPES


class Same:
    """A loader that always deals the same batch."""

    def __init__(self, shape: dict[str, int]) -> None:
        self.batch_size = shape["batch"]
        ids = torch.randint(0, shape["vocab"], (shape["batch"], shape["context"] + 1))
        self.batch = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and targets."""
        return self.batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def make_trainer(shape: dict[str, int], dtype: str, folder: Path) -> Trainer:
    """fromzero's own, ready to step."""
    names = ("layers", "width", "heads", "context")
    model = Transformer(
        ModelConfig(vocab_size=shape["vocab"], **{n: shape[n] for n in names}), compute_dtype=DTYPES[dtype]
    )
    config = TrainConfig(batch_size=shape["batch"], warmup_steps=0, schedule="constant", log_every=10**9)
    trainer = Trainer(model, Same(shape), config, folder, lambda model, step: {})
    trainer.log = MetricsLog(folder)
    return trainer


def window(trainer: Trainer, steps: int, saves: bool) -> tuple[float, float]:
    """Seconds of so many steps, and of those how many the call took that begins a checkpoint."""
    started = time.perf_counter()
    if saves:
        trainer._save()
    called = time.perf_counter() - started
    for _ in range(steps):
        trainer._train_step(lambda done, note="": None)
    return time.perf_counter() - started, called


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="10m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write bench/results/checkpoints.md")
    options = parser.parse_args()
    console.quiet = True
    keep_freed_memory()
    torch.set_num_threads(core_count())
    with TemporaryDirectory(prefix="bench-checkpoints-") as name:
        trainer = make_trainer(SHAPES[options.size], options.dtype, Path(name))
        window(trainer, options.steps, saves=True)
        rounds = [[window(trainer, options.steps, saves) for saves in (True, False)] for _ in range(options.rounds)]
        trainer.checkpoints.wait()
        size = sum(f.stat().st_size for f in Path(name).rglob("*.safetensors")) / trainer.config.keep_checkpoints
    step = statistics.median(plain / options.steps for _, (plain, _) in rounds)
    lost = statistics.median(saving - plain for (saving, _), (plain, _) in rounds)
    called = statistics.median(call for (_, call), _ in rounds)
    rows = [
        ["a step", f"{1000 * step:.0f} ms", ""],
        ["the call that begins a checkpoint", f"{1000 * called:.0f} ms", f"{called / step:.2f} %"],
        ["all that a checkpoint takes from the loop", f"{1000 * lost:.0f} ms", f"{lost / step:.2f} %"],
    ]
    table = markdown_table(["", "median", "share, one in 100 steps"], rows)
    what = f"{options.size}, {options.dtype}, {size / 2**20:.0f} MiB a checkpoint, {options.rounds} rounds."
    publish("checkpoints", "What a checkpoint costs", f"{what}\n\n{table}", machine_lines(), options.save)


if __name__ == "__main__":
    main()
