"""A run folder with everything a real one has, small: made by `artifact.build`, as the stages make theirs."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact, build
from fromzero.files import write_json
from fromzero.tuning.outcome import Change, Curve, Example, Outcome, write_outcome

HOSTILE = '<script>alert("x")</script> | `code` ```` & \x07 **bold**'
FUNNEL = [
    ("binary file, not text", 2, 0),
    ("too short", 120, 4_100),
    ("repeated lines", 31, 98_000),
    ("duplicate", 310, 402_000),
]
ALL = ("documents", "corpus", "questions", "tokenizer", "tokens", "base", "scores", "chat", "classes")
STEPS = 250


def counts() -> dict[str, Any]:
    """What the corpus stage counts."""
    dropped, dropped_bytes = (sum(row[i] for row in FUNNEL) for i in (1, 2))
    train, validation, train_bytes, validation_bytes = 8_103, 421, 11_400_210, 601_090
    kept, kept_bytes = train + validation, train_bytes + validation_bytes
    return {
        "files": {
            "read": 8_700,
            "unreadable": 2,
            "passed_over": 5,
            "passed_over_suffixes": {".png": 3, ".so": 2},
            "bytes": 14_400_123,
        },
        "documents": {
            "read": kept + dropped,
            "rejected": dropped,
            "kept": kept,
            "train": train,
            "validation": validation,
            "halved": 0,
            "cut": 4,
        },
        "bytes": {
            "read": kept_bytes + dropped_bytes,
            "rejected": dropped_bytes,
            "kept": kept_bytes,
            "train": train_bytes,
            "validation": validation_bytes,
        },
        "characters": {"train": 11_200_000, "validation": 600_000},
        "funnel": [{"reason": reason, "documents": n, "bytes": b} for reason, n, b in FUNNEL],
        "languages": {
            "en": {"documents": 8_400, "bytes": kept_bytes - 130_000},
            "zh": {"documents": 100, "bytes": 120_000},
            "und": {"documents": kept - 8_500, "bytes": 10_000},
        },
        "kinds": {
            "html": {"files": 702, "documents": 690, "bytes": 2_000_000},
            "markdown": {"files": 8_000, "documents": kept - 690, "bytes": kept_bytes - 2_000_000},
        },
    }


def rates(size: int, tokens: int) -> dict[str, Any]:
    return {"documents": 10, "bytes": size, "tokens": tokens, "bytes_per_token": size / tokens}


def measured(size: int) -> dict[str, Any]:
    parts = {"en": rates(size, size // 4), "zh": rates(size // 50, size // 110)}
    return {**rates(size, size // 4 + 10), "languages": parts}


def lines(path: Path, rows: list[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def metrics(steps: int, start: float, end: float, bits: bool) -> list[Mapping[str, Any]]:
    """Losses that fall from start to end, in the lines that the trainer writes."""

    def loss(step: int) -> float:
        return end + (start - end) * math.exp(-6 * step / steps)

    rows: list[Mapping[str, Any]] = []
    for step in [0, 1, *range(5, steps + 1, 5)]:
        speed = {"tokens_per_second": 21_000.0 + step, "flops_per_second": 4.1e11, "mfu": 0.62, "seconds": step * 0.3}
        if step:
            rate = 2e-3 * min(step / 40, 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
            shown = loss(step) + 0.08 * math.sin(step * 1.7)
            rows.append(
                {
                    "step": step,
                    "kind": "train",
                    "loss": shown,
                    "gradient_norm": 0.9 + 2 / (step + 1),
                    "learning_rate": rate,
                }
                | {"counted_tokens": 4096, "tokens": step * 4096, "peak_memory_bytes": 1_530_000_000}
                | speed
            )
        if step % (steps // 5) == 0:
            look = {"step": step, "kind": "look", "validation_loss": loss(step) + 0.05}
            rows.append(
                look | ({"validation_bits_per_byte": look["validation_loss"] / math.log(2) / 4} if bits else {})
            )
    return rows


def figures(rows: list[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    last = {"architecture": "llama", "parameters": 5_246_208, "steps": steps, "tokens": steps * 4096, "seconds": 75.2}
    return last | {k: v for k, v in rows[-1].items() if k.startswith("validation")}


class Maker:
    """Makes stages in a folder, each from its settings and what fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Artifact] = {}

    def stage(
        self, name: str, kind: str, config: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any]], *inputs: str
    ) -> None:
        digests = {stage: self.made[stage].digest for stage in inputs if stage in self.made}
        self.made[name] = build(self.folder / name, kind, dict(config), digests, fill)


def train_settings(steps: int) -> dict[str, Any]:
    return {"steps": steps, "batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 40, "seed": 7}


def fill_documents(folder: Path) -> Mapping[str, Any]:
    sources = [
        {
            "name": "Python language reference",
            "version": "3.11.2",
            "license": "PSF-2.0",
            "documents": 82,
            "bytes": 600_000,
        },
        {"name": "torch", "version": "2.11.0", "license": "BSD-3-Clause", "documents": 7_000, "bytes": 10_000_000},
        {"name": "<b>mpmath</b>", "version": None, "license": None, "documents": 0, "bytes": 0},
    ]
    write_json(folder / "sources.json", sources)
    return {"documents": 7_082, "bytes": 10_600_000, "sources": sources}


def fill_corpus(folder: Path) -> Mapping[str, Any]:
    write_json(folder / "counts.json", counts())
    return counts()


def fill_base(folder: Path) -> Mapping[str, Any]:
    rows = metrics(STEPS, 9.0, 3.1, bits=True)
    lines(folder / "run" / "metrics.jsonl", rows)
    said = ["ndrous theer th ∑ 的", "the the of the a tensor of", "a new array of the given shape and type.", HOSTILE]
    samples = [
        {"step": step, "prompt": prompt, "text": f"{text} ({prompt})"}
        for step, text in zip((0, 83, 167, STEPS), said, strict=True)
        for prompt in ("Return a copy of the array", "<b>Raises</b> ValueError")
    ]
    lines(folder / "run" / "samples.jsonl", samples)
    return figures(rows, STEPS)


def fill_chat(folder: Path) -> Mapping[str, Any]:
    rows = metrics(100, 2.8, 0.9, bits=False)
    lines(folder / "run" / "metrics.jsonl", rows)
    question = "Which module has the function `mktime_tz`?"
    lines(
        folder / "run" / "samples.jsonl",
        [
            {"step": step, "prompt": question, "text": text}
            for step, text in ((0, "of the of"), (100, "It is in email.utils."))
        ],
    )
    example = Example(question, HOSTILE, "It is in email.utils.", "email.utils", False, True)
    others = [replace(example, prompt=f"Question {i}?") for i in range(1, 10)]
    changes = [
        Change("right answers", 1 / 30, 15 / 30, "higher", 30, share=True),
        Change("right answers: module", 0.0, 9 / 16, "higher", 16, share=True),
        Change("held-out loss", 2.81, 0.93, "lower"),
    ]
    write_outcome(folder / "run", Outcome("chat", changes, examples=[example, *others], notes=["2 answers were cut"]))
    return figures(rows, 100)


def fill_classes(folder: Path) -> Mapping[str, Any]:
    """A classifier that mistakes some reviews; the more it is sure, the more it is right, but not as much."""
    rows = [dict(row) | {"accuracy": 1 - row["loss"] / 3} for row in metrics(60, 0.7, 0.1, bits=False) if "loss" in row]
    looks = [
        {"step": s, "kind": "look", "validation_loss": 0.6 - s / 150, "accuracy": 0.5 + s / 140}
        | {"retained_bits_per_byte": 1.2 + s / 1000, "retained_loss": 2.0 + s / 500}
        for s in (0, 20, 40, 60)
    ]
    lines(folder / "run" / "metrics.jsonl", [*rows, *looks])
    labels = ["ham", "spam", "a class of which the name is long"]
    counts = [[960, 4, 0], [7, 140, 3], [1, 0, 12]]
    bins = [{"confidence": (i + 0.5) / 10, "accuracy": (i + 0.5) / 12, "count": 9 * i} for i in range(10)]
    outcome = Outcome(
        "classify",
        [Change("accuracy", 0.5, 0.985, "higher", 1127, share=True), Change("macro-F1", 0.31, 0.93, "higher")],
        [Curve("accuracy", "accuracy"), Curve("accuracy", "accuracy", "look")],
        confusion={"labels": labels, "counts": counts},
        calibration=bins,
    )
    write_outcome(folder / "run", outcome)
    return figures(rows, 60)


def scores() -> dict[str, Any]:
    model = {"documents": 421, "tokens": 150_000, "bytes": 601_090, "characters": 600_000, "nats": 650_000.0}
    model |= {"bits_per_byte": 1.5603, "bits_per_byte_stderr": 0.0211, "perplexity": 75.91, "perplexity_stderr": 2.2}
    return {
        "model": model | {"nats_per_character": 1.0833},
        "baselines": {"unigram": 2.91, "gzip": 2.33, "zstd": 1.987, "xz": 1.9712},
    }


def make_run(folder: Path, wanted: tuple[str, ...] = ALL) -> Path:
    """A run with these stages; what a stage is made from counts only when it is among them."""
    tokenizer = {
        "vocab_size": 8192,
        "merges": 7928,
        "bytes": 11_400_210,
        "train": measured(2_000_000),
        "validation": measured(601_090),
    }
    tokens = {side: rates(size, size // 4) for side, size in (("train", 11_400_210), ("validation", 601_090))}
    model = {"layers": 4, "width": 256, "heads": 4, "context": 256}
    base = {"tokens": "x/tokens", "model": model, "train": train_settings(STEPS)}
    chat = {"model": "x/base", "conversations": "x/questions", "train": train_settings(100)}
    questions = {"train": 900, "validation": 100, "kinds": {"module": 500, "arguments": 300, "says": 200}}
    filters = {"min_length": 50, "max_repeated_lines": 0.6}
    maker = Maker(folder)
    jobs: dict[str, Callable[[], None]] = {
        "documents": lambda: maker.stage("documents", "documents", {"packages": ["torch"]}, fill_documents),
        "corpus": lambda: maker.stage("corpus", "corpus", {"seed": 0, "filters": filters}, fill_corpus, "documents"),
        "questions": lambda: maker.stage(
            "questions", "conversations", {"held_out": 0.1}, lambda f: questions, "corpus"
        ),
        "tokenizer": lambda: maker.stage("tokenizer", "tokenizer", {"vocab_size": 8192}, lambda f: tokenizer, "corpus"),
        "tokens": lambda: maker.stage("tokens", "tokens", {}, lambda f: {"vocab_size": 8192, **tokens}, "corpus"),
        "base": lambda: maker.stage("base", "model", base, fill_base, "tokens"),
        "scores": lambda: maker.stage("scores", "evaluation", {"model": "x/base"}, lambda f: scores(), "corpus"),
        "classes": lambda: maker.stage(
            "classes", "model", {"model": "x/base", "train": train_settings(60)}, fill_classes, "base"
        ),
        "chat": lambda: maker.stage("chat", "model", chat, fill_chat, "base", "questions"),
    }
    for name in ALL:
        if name in wanted:
            if name == "scores" and "base" in maker.made:
                digest = {"model": maker.made["base"].digest}
                build(folder / "scores", "evaluation", {"model": "x/base"}, digest, lambda f: scores())
            else:
                jobs[name]()
    return folder
