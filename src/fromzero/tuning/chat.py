"""`fromzero finetune chat`: base model + conversations -> a model that answers.

The same trainer as pretraining, with loss on what the assistant says and nothing else. Before and after, held-out
questions are put to the model; where code can tell a right answer, it is counted.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fromzero import artifact
from fromzero.artifact import Artifact
from fromzero.console import say
from fromzero.dataset import ConversationLoader, TokenShards
from fromzero.dataset.conversations import ConversationsConfig, is_held_out, pack_conversations
from fromzero.device import keep_freed_memory, pick_device
from fromzero.errors import UserError
from fromzero.interop import load_model
from fromzero.model import Transformer
from fromzero.model.quantized import quantized
from fromzero.parallel import World
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.training.compiling import Choices
from fromzero.training.finish import finish_model
from fromzero.training.metrics import read_metrics
from fromzero.training.objective import counted, next_token_loss
from fromzero.training.samples import SampleLog
from fromzero.training.settings import INCIDENTAL, TrainConfig
from fromzero.training.trainer import CHECKPOINTS, Look, Trainer
from fromzero.tuning.grading import ask, gradable, is_right, prompt_ids
from fromzero.tuning.questions import read_questions

VERSION = 1
EXAMPLES = 8
ROOM_FOR_ANSWER = 16  # tokens that a question must leave free to be asked


@dataclass(frozen=True)
class ChatConfig:
    """What is tuned on what."""

    model: Path
    """Folder of the base model."""
    conversations: Path
    """JSONL file of conversations, or a folder with train.jsonl and validation.jsonl."""
    output: Path
    """Folder for the tuned model."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=300, batch_size=32, learning_rate=3e-4, warmup_steps=20, weight_decay=0.01, final_learning_rate=0.0
        )
    )
    """How it is trained; gentler than pretraining, so that less is forgotten."""
    graded: int = 16
    """Held-out questions of each gradable kind that are put to the model before and after."""

    def __post_init__(self) -> None:
        for name in ("tokens", "warmup_tokens", "batch_size_start", "parametrization"):
            if getattr(self.train, name) != getattr(TrainConfig, name):
                raise UserError(f"train.{name} is for pretraining; leave it out")


def finetune_chat(config: ChatConfig) -> Artifact:
    """Tune a model on conversations; skipped when up to date, resumed when it was cut off."""
    model = artifact.open_artifact(config.model, "model")
    here = replace(config, model=model.path, conversations=artifact.here(config.conversations))
    inputs = {"model": model.digest, "conversations": _digest(here.conversations)}
    ignore = ("model", "conversations", "output", *INCIDENTAL)
    return artifact.build(
        config.output,
        "model",
        config,
        inputs,
        lambda folder: _tune(here, folder),
        version=VERSION,
        ignore=ignore,
        scratch=CHECKPOINTS,
    )


def _digest(path: Path) -> str:
    if artifact.is_artifact(path):
        return artifact.open_artifact(path, "conversations").digest
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.exists() else []
    return artifact.digest_of([(file.name, artifact.digest_file(file)) for file in files])


def _tune(config: ChatConfig, folder: Path) -> Mapping[str, Any]:
    keep_freed_memory()
    device = pick_device(config.train.device)
    choices = Choices(folder / CHECKPOINTS, World(device))
    model = load_model(config.model, choices.dtype(config.train.dtype)).to(device)
    if next(quantized(model), None):
        raise UserError(f"{config.model} has weights in few bits, which can't be trained; tune what it was made of")
    tokenizer = load_tokenizer(config.model)
    packed = folder / "run" / "tokens"
    packing = ConversationsConfig(config.conversations, config.model, packed, context=model.config.context)
    summary = pack_conversations(packing).summary
    train, held_out = TokenShards(packed, "train"), TokenShards(packed, "validation")
    say(f"model: {model.parameter_count():,} parameters; {train.documents:,} conversations to learn from")
    records = _records(config.conversations)
    loader = ConversationLoader(train, model.config.context, config.train.batch_size, config.train.seed)
    records = [r for r in records if _fits(r, tokenizer, model.config.context)]
    look = _look(config, folder / "run", tokenizer, held_out, records)
    choices.keep()
    figures = Trainer(model, loader, config.train, folder / "run", look).fit()
    _write_answers(folder / "run", records)
    shutil.rmtree(packed)
    made = finish_model(model, folder, config.model, tokenizer, "<|im_end|>", figures)
    return {**made, "conversations": summary}


def _records(conversations: Path) -> list[dict[str, Any]]:
    """The held-out conversations as they were given, for the questions and what a right answer holds."""
    if conversations.is_dir():
        file = conversations / "validation.jsonl"
        records = list(read_questions(file)) if file.exists() else []
    else:
        records = [r for r in read_questions(conversations) if is_held_out(r["messages"])]
    return [r for r in records if len(r["messages"]) == 2]


def _fits(record: Mapping[str, Any], tokenizer: Tokenizer, context: int) -> bool:
    """Whether a question leaves room for an answer."""
    return len(prompt_ids(tokenizer, record["messages"][:1])) + ROOM_FOR_ANSWER <= context


def _look(
    config: ChatConfig,
    folder: Path,
    tokenizer: Tokenizer,
    held_out: TokenShards,
    records: Sequence[Mapping[str, Any]],
) -> Look:
    samples = SampleLog(folder)
    questions = [r["messages"][0]["content"] for r in _asked(records, config.graded)]

    def look(model: Transformer, step: int) -> dict[str, Any]:
        if step in (0, config.train.steps):
            answers = [(q, ask(model, tokenizer, [{"role": "user", "content": q}])) for q in questions]
            samples.write(step, answers)
        return {"validation_loss": held_out_loss(model, held_out, config.train)} if held_out.documents else {}

    return look


@torch.inference_mode()
def held_out_loss(model: Transformer, held_out: TokenShards, config: TrainConfig) -> float:
    """Mean nats of the assistant's tokens over held-out conversations, up to config.validation_tokens tokens."""
    model.eval()
    loader = ConversationLoader(held_out, model.config.context, min(config.batch_size, held_out.documents))
    device = model.token_embedding.weight.device
    nats, count, seen = 0.0, 0, 0
    while loader.epoch == 0 and seen < config.validation_tokens:
        ids_BT, targets_BT = loader.next_batch()
        nats += float(next_token_loss(model, ids_BT.to(device), targets_BT.to(device)))
        count += counted(targets_BT)
        seen += ids_BT.numel()
    return nats / max(1, count)


def _asked(records: Sequence[Mapping[str, Any]], graded: int) -> list[Mapping[str, Any]]:
    """The gradable ones, and some others as examples."""
    others = [r for r in records if not r.get("expected")]
    return gradable(records, graded) + list(others[:: max(1, len(others) // EXAMPLES)][:EXAMPLES])


def _write_answers(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """`answers.json`: what was said before and after, and how much of it was right."""
    by_question = {r["messages"][0]["content"]: r for r in records}
    said: dict[str, list[str]] = {}
    for line in read_metrics(folder / "samples.jsonl"):
        said.setdefault(line["prompt"], []).append(line["text"])
    graded: dict[str, dict[str, int]] = {}
    examples = []
    for question, answers in said.items():
        record = by_question[question]
        before, after = answers[0], answers[-1]
        expected = record["messages"][1]["content"]
        examples.append({"question": question, "expected": expected, "before": before, "after": after})
        if isinstance(words := record.get("expected"), list) and words:
            counts = graded.setdefault(str(record.get("kind")), {"questions": 0, "right_before": 0, "right_after": 0})
            counts["questions"] += 1
            counts["right_before"] += is_right(before, words)
            counts["right_after"] += is_right(after, words)
    text = json.dumps({"graded": graded, "examples": examples}, indent=2, ensure_ascii=False)
    artifact.write_text(folder / "answers.json", text + "\n")
