"""GRPO beside TRL's GRPOTrainer (without vLLM): samples a second, with the same model, prompts, sizes and lengths.

    python bench/grpo.py [--steps 6] [--answers 8] [--batches 8 32 64] [--tokens 64] [--save]

A model of random weights answers up to the longest that it may, so both make about the same number of tokens. A sample
is an answer that was drawn, scored and learned from once. A step has 8 answers (TRL's usual), or more. Each side runs
in a process of its own, in turn, several times; the first step of each, in which things are compiled and warmed, does
not count. The medians of the others are compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from common import ROOT, child_environment, core_count, machine_lines, markdown_table, publish

WORDS = ("river", "cloud", "stone", "window", "silver", "forest", "garden", "letter", "winter", "mountain")
PROMPTS = [f"The {a} near the {b} is quiet, and" for a in WORDS for b in WORDS]


def make_model(folder: Path) -> None:
    """A model of 8 million parameters, and a tokenizer of this project's own documentation."""
    from fromzero.corpus import CorpusConfig, build_corpus
    from fromzero.interop import save_model
    from fromzero.model import ModelConfig, Transformer
    from fromzero.tokenizer import TokenizerConfig, load_tokenizer, train_tokenizer

    build_corpus(CorpusConfig(inputs=(ROOT / "docs",), output=folder / "corpus", workers=1))
    train_tokenizer(TokenizerConfig(corpus=folder / "corpus", output=folder / "tokenizer", vocab_size=4096))
    tokenizer = load_tokenizer(folder / "tokenizer")
    config = ModelConfig(layers=8, width=256, heads=4, context=512).with_vocab(tokenizer.vocab_size)
    end = tokenizer.end_of_text
    (folder / "model").mkdir()
    save_model(Transformer(config, seed=0), folder / "model", folder / "tokenizer", {"bos": end, "eos": end})
    lines = [{"prompt": prompt, "verifier": {"kind": "regex", "pattern": "z"}} for prompt in PROMPTS]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def ours(folder: Path, steps: int, answers: int, batch: int, tokens: int) -> list[float]:
    """Seconds of each step."""
    from fromzero.evaluation.tasks import TasksConfig
    from fromzero.training import TrainConfig
    from fromzero.training.metrics import read_metrics
    from fromzero.tuning.grpo import GrpoConfig, align_grpo
    from fromzero.tuning.rollouts import RolloutConfig

    train = TrainConfig(
        steps=steps, batch_size=batch, learning_rate=1e-6, log_every=1, dtype="float32", validate_every=steps,
        checkpoint_every=steps,
    )  # fmt: skip
    tasks, rollouts = TasksConfig(source=str(folder / "tasks.jsonl")), RolloutConfig(answers=answers, max_tokens=tokens)
    with tempfile.TemporaryDirectory() as output:
        made = align_grpo(GrpoConfig(
            model=folder / "model", output=Path(output) / "made", train=train, tasks=tasks, rollouts=rollouts,
            preset="dapo", held_out=1,
        ))  # fmt: skip
        lines = [line for line in read_metrics(made.path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    print(f"mean length {statistics.mean(line['answer_tokens'] for line in lines):.1f}", file=sys.stderr)
    seconds = [line["seconds"] for line in lines]
    return [b - a for a, b in pairwise(seconds)]


def theirs(folder: Path, steps: int, answers: int, batch: int, tokens: int) -> list[float]:
    """Seconds of each step."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            times.append(time.perf_counter())

    def reward(completions: list[str], **_: object) -> list[float | None]:
        return [float("z" in completion) for completion in completions]

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    with tempfile.TemporaryDirectory() as output:
        config = GRPOConfig(
            output_dir=output, per_device_train_batch_size=batch, num_generations=answers, max_completion_length=tokens,
            max_steps=steps, learning_rate=1e-6, beta=0.0, temperature=1.0, loss_type="dapo", report_to="none",
            use_cpu=True, bf16=False, save_strategy="no", logging_steps=1, gradient_checkpointing=False,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="float32")
        data = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS])
        trainer = GRPOTrainer(
            model, reward, config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]
        )
        trainer.train()
    lengths = [
        line["completions/mean_length"] for line in trainer.state.log_history if "completions/mean_length" in line
    ]
    print(f"mean length {statistics.mean(lengths):.1f}", file=sys.stderr)
    return [b - a for a, b in pairwise(times)]


def measure(folder: Path, given: argparse.Namespace, batch: int) -> list[str]:
    """A row of the table: samples a second of both with so many answers a step."""
    steps = max(given.steps, 128 // batch)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(given.rounds):
        for side, found in seconds.items():
            job = json.dumps([side, str(folder), steps, given.answers, batch, given.tokens])
            line = [sys.executable, __file__, "--job", job]
            run = subprocess.run(line, stdout=subprocess.PIPE, env=child_environment(), check=True, text=True)
            found += json.loads(run.stdout.splitlines()[-1])
    ours, theirs = (batch / statistics.median(found) for found in seconds.values())
    return [f"{batch}", f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, usual in (("steps", 6), ("answers", 8), ("tokens", 64), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 64], help="answers in a step")
    parser.add_argument("--save", action="store_true", help="write results/grpo.md")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        import torch

        torch.set_num_threads(core_count())
        side, folder, *sizes = json.loads(given.job)
        print(json.dumps({"ours": ours, "theirs": theirs}[side](Path(folder), *sizes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        rows = [measure(Path(folder), given, batch) for batch in given.batches]
    body = markdown_table(["answers a step", "samples/s", "TRL's samples/s", "times as fast"], rows)
    body += f"\n\n{given.answers} answers to a prompt, up to {given.tokens} tokens; 7.5 million parameters, fp32"
    machine = machine_lines(trl=version("trl"), transformers=version("transformers"))
    publish("grpo", "GRPO beside TRL without vLLM", body, machine, given.save)


if __name__ == "__main__":
    main()
