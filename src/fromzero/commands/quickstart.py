"""`fromzero quickstart [--input FOLDER]`: the whole way, and at its end what the model says."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact, open_artifact
from fromzero.commands import Verb
from fromzero.console import human_seconds, printable, say, table
from fromzero.recipe import RunConfig, run_recipe
from fromzero.training.metrics import read_metrics

RECIPE = Path("quickstart")
VOCABULARIES = (300, 512, 1024, 2048, 4096, 8192)
BYTES_PER_TOKEN_OF_VOCABULARY = 500  # a token that is learned from less text is hardly ever seen in training


@dataclass(frozen=True)
class QuickstartConfig:
    """What to do the whole way on."""

    input: Path | None = None
    """Folder (or file) of your own documents; without it, the documentation on this machine."""
    output: Path = Path("runs/quickstart")
    """Folder for all stages."""
    set: dict[str, Any] = field(default_factory=dict)
    """Settings that replace the recipe's, as in --set '{base.train.steps: 300}'."""


def run(config: QuickstartConfig) -> None:
    """Run the recipe, on the user's documents if there are any, and show what came out."""
    changes: dict[str, Any] = {}
    skip: tuple[str, ...] = ()
    if config.input is not None:
        skip = ("documents",)
        changes = {"corpus.inputs": [str(config.input)], "questions.documents": None, **config.set}
        made = run_recipe(RunConfig(RECIPE, config.output, until_stage="corpus", skip=skip, set=changes))
        changes["tokenizer.vocab_size"] = fitting_vocabulary(made["corpus"])
    run_recipe(RunConfig(RECIPE, config.output, skip=skip, set=changes | config.set))
    show(config.output)


def fitting_vocabulary(corpus: Artifact) -> int:
    """The largest vocabulary that this much text can teach."""
    size = corpus.summary["bytes"]["kept"]
    fitting = [v for v in VOCABULARIES if v * BYTES_PER_TOKEN_OF_VOCABULARY <= size]
    if not fitting:
        say(f"{corpus.path} has only {size:,} bytes of text; a model learns little from that, add documents if you can")
    return max(fitting, default=VOCABULARIES[0])


def show(output: Path) -> None:
    """What the model said at each stage, where the report is, and how to go on."""
    samples = list(read_metrics(output / "base" / "run" / "samples.jsonl"))
    said = [line for line in samples if line["prompt"] == samples[0]["prompt"]]
    if said:
        rows = [
            ("before training", _short(said[0]["text"])),
            (f"after {said[-1]['step']} steps", _short(said[-1]["text"])),
        ]
        table(f"The base model goes on from {printable(said[0]['prompt'])!r}", ("", ""), rows)
    answers = [(printable(e["question"]), _short(e["before"]), _short(e["after"])) for e in _examples(output)]
    table("Held-out questions", ("question", "before tuning", "after tuning"), answers)
    base, chat = (open_artifact(output / name, "model").summary for name in ("base", "chat"))
    bits = base.get("validation_bits_per_byte")
    figure = f"loss {base['validation_loss']:.3f}" if bits is None else f"{bits:.3f} bits per byte"
    say(f"{base['parameters']:,} parameters, {base['tokens']:,} tokens, {figure} on held-out text; "
        f"pretraining {human_seconds(base['seconds'])}, tuning {human_seconds(chat['seconds'])}")  # fmt: skip
    say(f"\nreport:       {output / 'report' / 'report.html'}")
    say(f"talk to it:   fromzero chat {output / 'chat'}")


def _examples(output: Path, count: int = 4) -> Iterator[dict[str, str]]:
    answers = json.loads((output / "chat" / "run" / "answers.json").read_text(encoding="utf-8"))["examples"]
    yield from answers[:: max(1, len(answers) // count)][:count]


def _short(text: str, length: int = 160) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"


VERB = Verb(QuickstartConfig, run)
