"""`fromzero finetune chat`: base model + conversations -> a model that answers.

The same trainer as pretraining, with loss on what the assistant says and nothing else. Before and after, held-out
questions are put to the model; where code can tell a right answer, it is counted.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fromzero.artifact import Artifact
from fromzero.console import say
from fromzero.dataset import ConversationLoader, TokenShards
from fromzero.dataset.conversations import ConversationsConfig, pack_conversations
from fromzero.dataset.packed_chats import PackedConversationLoader
from fromzero.dataset.sources import bring, read_conversations
from fromzero.dataset.splits import read_splits
from fromzero.errors import UserError
from fromzero.files import write_json
from fromzero.model import Transformer
from fromzero.parallel import Fleet, World
from fromzero.tokenizer import Tokenizer
from fromzero.training.metrics import read_metrics
from fromzero.training.objective import counted, next_token_loss
from fromzero.training.samples import SampleLog
from fromzero.training.settings import TrainConfig
from fromzero.training.trainer import Loader, Look
from fromzero.tuning.base import Base, TuningConfig, finish, fit, open_base, tune_together
from fromzero.tuning.grading import GREEDY, end_of_turn, gradable, is_right, prompt_ids
from fromzero.tuning.noise import NoisyNextToken
from fromzero.tuning.outcome import Better, Change, Curve, Example, Outcome, Task, write_outcome
from fromzero.tuning.speaker import Speaker

VERSION = 2
EXAMPLES = 8
Rows = tuple[Tensor, Tensor]
COUNTED = {
    "truncated": "conversations lost what is beyond the context",
    "without_loss": "conversations were dropped: no token that is learned was left",
    "by_answer": "conversations are a row for each answer: their template rewrites earlier answers",
    "repeated": "conversations ask what another does",
    "leaked": "held-out conversations are learned as well",
}
"""What is counted of conversations, in words."""
ROOM_FOR_ANSWER = 16  # tokens that a question must leave free to be asked


@dataclass(frozen=True, kw_only=True)
class ChatConfig(TuningConfig):
    """What is tuned on what."""

    conversations: Path
    """Conversations in any of the forms that are read (messages, ShareGPT, Alpaca, prompt and completion): a file, or a
    folder with train.jsonl and validation.jsonl."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=300, batch_size=32, learning_rate=3e-4, warmup_steps=20, weight_decay=0.01, final_learning_rate=0.0
        )
    )
    """How it is trained; gentler than pretraining, so that less is forgotten."""
    loss: Literal["all", "last"] = "all"
    """Which of the assistant's turns are learned."""
    context: int | None = None
    """Tokens of the longest conversation that is kept whole, and of a packed row; null is the model's context."""
    packing: Literal["padded", "packed"] = "padded"
    """What a row of a batch is: a conversation, padded to the longest of the batch, or as many whole ones as it holds,
    each of which sees only itself."""
    noise: float = 0.0
    """NEFTune's alpha, such as 5: noise on embedded tokens in training; 0 adds none."""
    graded: int = 16
    """Held-out questions of each gradable kind that are put to the model before and after."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.graded < 0 or not 0 <= self.noise < float("inf") or (self.context is not None and self.context < 2):
            raise UserError(
                f"graded ({self.graded}) and noise ({self.noise}) must be 0 or more, context ({self.context}) 2 or more"
            )
        if self.noise and self.parallel.context > 1:
            raise UserError("noise is drawn for whole rows: leave it out, or parallel.context at 1")


def finetune_chat(config: ChatConfig) -> Artifact:
    """Tune a model on conversations; skipped when up to date, resumed when it was cut off. Raises UserError."""
    return tune_together(config, {"conversations": config.conversations}, tune, VERSION)


def usual_objective(config: ChatConfig, base: Base) -> NoisyNextToken:
    """The next token's loss."""
    return NoisyNextToken(base.model, config.noise, config.train.seed, config.train.ahead_weight)


def tune(
    config: Any,
    folder: Path,
    world: World,
    make_objective: Callable[[Any, Base], NoisyNextToken] = usual_objective,
    task: Task = "chat",
) -> Mapping[str, Any]:
    """Train on conversations, in `folder`; the summary."""
    base = open_base(config, folder, world)
    context, run = min(config.context or base.model.config.context, base.model.config.context), folder / "run"
    source = bring(config.conversations)
    packing = ConversationsConfig(source, config.model, run / "tokens", context=context, loss=config.loss)
    packed = world.share(pack_conversations(packing).summary if world.first else None)
    train, held_out = TokenShards(run / "tokens", "train"), TokenShards(run / "tokens", "validation")
    say(f"{train.documents:,} conversations to learn from, {held_out.documents:,} held out")
    asked = _asked(_held_out(source), base.tokenizer, config.graded, base.model.config.context) if world.first else []
    kind = PackedConversationLoader if config.packing == "packed" else ConversationLoader

    def make_loader(fleet: Fleet) -> Loader:
        return kind(train, context, config.train.batch_size, config.train.seed, fleet.data_rank, fleet.data_size)

    objective = make_objective(config, base)
    look = _look(config, base, run, held_out, asked, objective)
    whole, figures = fit(config, base, objective, make_loader, look, folder, world)
    if world.first:
        _write_outcome(config, run, asked, packed, task)
        shutil.rmtree(run / "tokens")
    return {**finish(whole, base, folder, figures, end_of_turn(base.tokenizer)), "conversations": packed}


def _held_out(conversations: Path) -> list[dict[str, Any]]:
    """The held-out conversations, with what else their records say, such as what a right answer holds."""
    found = read_splits(conversations, read_conversations)
    return [{**one.record, "messages": one.messages} for split, one, _ in found if split == "validation"]


def _asked(
    records: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, graded: int, context: int
) -> list[Mapping[str, Any]]:
    """The gradable ones, and some others as examples, all of which leave room for an answer."""
    fitting = [r for r in records if len(prompt_ids(tokenizer, r["messages"][:-1])) + ROOM_FOR_ANSWER <= context]
    others = [r for r in fitting if not r.get("expected")]
    return gradable(fitting, graded) + list(others[:: max(1, len(others) // EXAMPLES)][:EXAMPLES])


def _question(record: Mapping[str, Any]) -> str:
    return str(record["messages"][-2].get("content") or "") if len(record["messages"]) > 1 else ""


def _look(
    config: ChatConfig,
    base: Base,
    run: Path,
    held_out: TokenShards,
    asked: Sequence[Mapping[str, Any]],
    objective: NoisyNextToken,
) -> Look:
    samples, tokenizer = SampleLog(run), base.tokenizer

    def look(model: Transformer, step: int) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        if held_out.documents:
            figures["validation_loss"] = held_out_loss(model, held_out, config.train)
            figures |= objective.measure(model, held_out_batches(model, held_out, config.train))
        if asked and step in (0, config.train.steps):
            speaker = Speaker(model, tokenizer, "bfloat16" if model.compute_dtype == torch.bfloat16 else "float32")
            said = speaker.say([prompt_ids(tokenizer, r["messages"][:-1]) for r in asked], GREEDY)
            samples.write(step, [(_question(r), a[0].text.strip()) for r, a in zip(asked, said, strict=True)])
        return figures

    return look


@torch.inference_mode()
def held_out_loss(model: Transformer, held_out: TokenShards, config: TrainConfig) -> float:
    """Mean nats of the assistant's tokens over held-out conversations, up to config.validation_tokens tokens."""
    model.eval()
    nats, count = 0.0, 0
    for ids_BT, targets_BT in held_out_batches(model, held_out, config):
        nats += float(next_token_loss(model, ids_BT, targets_BT))
        count += counted(targets_BT)
    return nats / max(1, count)


def held_out_batches(model: Transformer, held_out: TokenShards, config: TrainConfig) -> Iterator[Rows]:
    """Ids and targets of held-out conversations on the model's device, up to config.validation_tokens tokens."""
    loader = ConversationLoader(held_out, model.config.context, min(config.batch_size, held_out.documents))
    seen = 0
    while loader.epoch == 0 and seen < config.validation_tokens:
        ids_BT, targets_BT = loader.next_batch()
        yield ids_BT.to(model.device), targets_BT.to(model.device)
        seen += ids_BT.numel()


def _write_outcome(
    config: ChatConfig, run: Path, asked: Sequence[Mapping[str, Any]], packed: Mapping[str, Any], task: Task
) -> None:
    """`answers.json`, what was said before and after and how much of it was right; and `outcome.json`."""
    lines = list(read_metrics(run / "samples.jsonl"))
    before, after = ([line["text"] for line in lines if line["step"] == s] for s in (0, config.train.steps))
    examples: list[Example] = []
    graded: dict[str, dict[str, int]] = {}
    for record, first, last in zip(asked, before, after, strict=True):
        right = None
        if words := record.get("expected"):
            right = is_right(first, words), is_right(last, words)
            counts = graded.setdefault(str(record.get("kind")), {"questions": 0, "right_before": 0, "right_after": 0})
            for name, more in zip(counts, (1, *right), strict=True):
                counts[name] += more
        expected = str(record["messages"][-1].get("content") or "")
        examples.append(Example(_question(record), first, last, expected, *(right or ())))
    told = [{"question": e.prompt, "expected": e.expected, "before": e.before, "after": e.after} for e in examples]
    write_json(run / "answers.json", {"graded": graded, "examples": told})
    looks = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "look"]
    changes = [*_changes(looks), *(_graded(kind, counts) for kind, counts in graded.items())]
    curves = [Curve("loss", "loss, nats per token"), Curve("validation_loss", "held-out loss", "look")]
    notes = [f"{packed[name]:,} {what}" for name, what in COUNTED.items() if packed[name]]
    notes += [f"{count:,} records were dropped: {reason}" for reason, count in packed["dropped"].items()]
    write_outcome(run, Outcome(task, changes, curves, examples, notes=notes))


def _changes(looks: Sequence[Mapping[str, Any]]) -> list[Change]:
    names = {"validation_loss": "held-out loss, nats per token"}
    names |= {"retained_loss": "loss on what it knew before, nats per token"}
    names |= {"divergence": "divergence from the teacher, nats per token"}
    names |= {"agreement": "held-out tokens whose likeliest is the teacher's"}
    found = [(key, [line[key] for line in looks if key in line]) for key in names]
    ways: dict[bool, Better] = {True: "higher", False: "lower"}
    return [Change(names[key], v[0], v[-1], ways[key == "agreement"]) for key, v in found if v]


def _graded(kind: str, counts: Mapping[str, int]) -> Change:
    asked = counts["questions"]
    shares = counts["right_before"] / asked, counts["right_after"] / asked
    return Change(f"right answers: {kind}", *shares, "higher", asked, share=True)
