"""`fromzero finetune classify`: a model and labelled texts -> a model that tells classes of texts apart.

A new head on the vector of a text: a decoder's last token, an encoder's first ([CLS]), or the mean of all. Before and
after, held-out texts are classified, and a bag of words shows what that is worth.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fromzero.artifact import Artifact
from fromzero.console import say
from fromzero.dataset.formats import Labelled
from fromzero.dataset.labelled import LabelledLoader
from fromzero.dataset.sources import Tally, bring, read_labelled
from fromzero.dataset.splits import load_splits
from fromzero.errors import UserError
from fromzero.evaluation.bag_of_words import BagOfWords
from fromzero.evaluation.classification import score
from fromzero.files import write_json
from fromzero.inference.classifying import TOKENIZER_CONFIG, Classifier, Side, class_probabilities
from fromzero.interop.huggingface import load_any, unquantized
from fromzero.interop.weights import read_json
from fromzero.model import Transformer
from fromzero.model.heads import HeadConfig, HeadedTransformer, Pooling
from fromzero.parallel import Fleet, World
from fromzero.training.objective import Objective, added_loss, counted
from fromzero.training.settings import TrainConfig
from fromzero.training.trainer import Look
from fromzero.tuning.base import TuningConfig, finish, fit, open_base, tune_together
from fromzero.tuning.outcome import Change, Curve, Example, Outcome, write_outcome

EXAMPLES = 8
LETTERS = 300  # of a text among the examples
BEFORE = "before.json"
_NAMES = {
    "accuracy": "held-out accuracy",
    "balanced_accuracy": "held-out balanced accuracy",
    "macro_f1": "held-out macro F1",
    "loss": "held-out loss",
    "calibration_error": "calibration error (ECE)",
}
_HIGHER = ("accuracy", "balanced_accuracy", "macro_f1")  # is better


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(TuningConfig):
    """What is told apart."""

    data: Path
    """Labelled texts: a table, JSON lines, Parquet, a folder with train.* and validation.*, or with a folder for each
    class."""
    text: str = "text"
    """Column or key of the text."""
    label: str = "label"
    """Column or key of its class."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a table without a header."""
    held_out: float = 0.2
    """Share of the texts that is held out, chosen by what they say, unless the data has a validation split."""
    pooling: Pooling | Literal["auto"] = "auto"
    """The vector of a text: of its first token, its last one, or the mean; auto: last of a decoder, first of an
    encoder."""
    freeze: Literal["none", "all"] | int = "none"
    """What stays as it is: nothing, all but the head, or all but the head and so many of the last blocks."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """Whether rare classes weigh as much as frequent ones, in training and for the bag of words."""
    length: int | None = None
    """Longest text, tokens; null is the model's context."""
    truncate: Side = "right"
    """The side at which longer ones lose some."""
    baseline: bool = True
    """Whether a bag of words is measured beside it."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=300, batch_size=32, learning_rate=5e-5, warmup_steps=30, weight_decay=0.01, final_learning_rate=0.0
        )
    )
    """How it is trained; a small model of one's own bears ten times the rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.held_out < 1:
            raise UserError(f"held_out is {self.held_out}; it should be 0 or more and below 1")
        if (self.adapters and self.freeze != "none") or (isinstance(self.freeze, int) and self.freeze < 1):
            raise UserError("freeze: give none, all, or a number of blocks above 0, and none of these beside adapters")
        if self.retain:
            raise UserError("retain is for models that write text; leave it out")
        if self.length is not None and self.length < 4:
            raise UserError(f"length is {self.length}; it should be 4 tokens or more, or null")
        if self.parallel.pipeline > 1 or self.parallel.context > 1:
            raise UserError("classes are learned with parallel.pipeline and parallel.context of 1")


class Classification(Objective):
    """Sum of -w log p(class) over texts, divided by the sum of their weights."""

    def __init__(self, model: HeadedTransformer, weights_C: Tensor) -> None:
        super().__init__(model)
        self.weights_C = weights_C
        """Of a text of each class."""

    def count(self, batch: Mapping[str, Tensor]) -> float:
        """The sum of the weights of these texts."""
        classes_B = batch["targets_BT"]
        return float(self.weights_C[classes_B[classes_B >= 0]].sum())

    def forward(self, **batch: Tensor) -> Tensor:
        """batch: ids_BT, targets_BT (the class of each text, (B,), -100 for none) and keep_BT (what is no padding)."""
        classes_B = batch["targets_BT"]
        logits_BC = self.model.outputs(batch["ids_BT"], keep_BT=batch["keep_BT"]).classes.float()
        right_B = logits_BC.detach().argmax(1) == classes_B
        self.note(train_accuracy=(right_B.sum(), float((classes_B >= 0).sum())))
        weights_C = self.weights_C.to(logits_BC.device)
        loss = torch.nn.functional.cross_entropy(logits_BC, classes_B, weights_C, reduction="sum")
        return loss + added_loss(self.model, counted(classes_B))


@dataclass(frozen=True)
class Texts:
    """One side of the data."""

    texts: list[str]
    rows: list[list[int]]
    classes_N: Tensor


def finetune_classify(config: ClassifyConfig) -> Artifact:
    """Bring the classifier up to date; resumed when it was cut off. Raises UserError."""
    return tune_together(config, {"data": config.data}, _tune)


def _tune(config: ClassifyConfig, folder: Path, world: World) -> Mapping[str, Any]:
    read = partial(read_labelled, text=config.text, label=config.label, columns=config.columns)
    tally = Tally()
    splits = load_splits(bring(config.data), lambda path, tally: read(path, tally), config.held_out, tally)
    labels = tuple(sorted({one.label for one in splits["train"]}))
    if len(labels) < 2:
        raise UserError(
            f"{config.data}: all texts to learn from are '{labels[0]}'; give two classes, some texts of each"
        )
    base = open_base(config, folder, world, partial(_load, config))
    heads = head_for(base.model.config.kind, config.pooling, labels)
    model = HeadedTransformer.on(base.model, heads, config.train.seed)
    freeze(model, config.freeze)
    longest = min(config.length or model.config.context, model.config.context)
    classifier = Classifier(model, base.tokenizer, longest, config.truncate)
    notes: list[str] = []
    train, held_out = (_texts(split, splits[split], classifier, notes) for split in ("train", "validation"))
    for note in notes:
        say(note)
    notes += [f"{count:,} records were dropped: {reason}" for reason, count in tally.dropped.items()]
    weights_C = class_weights(train.classes_N, len(labels), config.class_weights == "balanced")
    base = replace(base, model=model)
    size, seed = config.train.batch_size, config.train.seed

    def loader(fleet: Fleet) -> LabelledLoader:
        return LabelledLoader(train.rows, train.classes_N, size, seed, fleet.data_rank, fleet.data_size)

    objective, look = Classification(model, weights_C), _look(held_out, folder / "run")
    whole, figures = fit(config, base, objective, loader, look, folder, world)
    if whole is not None and held_out.texts:
        bag = BagOfWords(train.texts, train.classes_N, len(labels), weights_C) if config.baseline else None
        figures = figures | _compare(whole, bag, held_out, folder / "run", notes)
    made = finish(whole, base, folder, figures, None)
    if whole is not None:
        _write_limits(folder / TOKENIZER_CONFIG, longest, config.truncate)
    return made


def _load(config: ClassifyConfig, *given: Any) -> Transformer:
    """Decoders and encoders; matrices in few bits are made whole unless adapters are what is trained."""
    model = load_any(*given)
    if not isinstance(model, Transformer):
        raise UserError(f"{config.model} is an encoder-decoder; name an encoder or a decoder")
    whole: Any = model if config.adapters else unquantized(model)
    return whole


def head_for(kind: str, pooling: Pooling | Literal["auto"], labels: tuple[str, ...]) -> HeadConfig:
    """The head that published classes have, where there is one for this vector of a text."""
    if pooling == "auto":
        pooling = "last" if kind == "decoder" else "first"
    bias = (kind, pooling) != ("decoder", "last")
    return HeadConfig(pooling=pooling, pooler=pooling == "first", classes=len(labels), labels=labels, bias=bias)


def freeze(model: HeadedTransformer, what: Literal["none", "all"] | int) -> None:
    """Let parameters stay as they are; see ClassifyConfig. What no class depends on always does."""
    if what != "none":
        model.requires_grad_(False)
        blocks = list(model.blocks)[-what:] if isinstance(what, int) else []
        last = [model.final_norm] if blocks and model.final_norm is not None else []
        for part in (*blocks, *last, model.added()):
            part.requires_grad_(True)
    model.head.requires_grad_(False)
    model.ahead.requires_grad_(False)


def class_weights(classes_N: Tensor, count: int, balanced: bool) -> Tensor:
    """The weight of a text of each class (C): N / (C x texts of the class) if balanced, else 1."""
    sizes_C = torch.bincount(classes_N, minlength=count)
    return len(classes_N) / (count * sizes_C.float()) if balanced else torch.ones(count)


def _texts(split: str, records: Sequence[Labelled], classifier: Classifier, notes: list[str]) -> Texts:
    number = {label: i for i, label in enumerate(classifier.labels)}
    known = [one for one in records if one.label in number]
    rows, cut = classifier.encode([one.text for one in known])
    if strange := sorted({one.label for one in records} - number.keys()):
        left_out = len(records) - len(known)
        notes.append(f"{split}: {left_out:,} texts are left out: none to learn from has their class ({strange[0]} ...)")
    if cut:
        side = "end" if classifier.truncate == "right" else "beginning"
        notes.append(f"{split}: {cut:,} of {len(rows):,} texts lost their {side}: over {classifier.longest:,} tokens")
    return Texts([one.text for one in known], rows, torch.tensor([number[one.label] for one in known]).long())


def _look(held_out: Texts, run: Path) -> Look:
    def look(model: Transformer, step: int) -> dict[str, Any]:
        if not held_out.texts:
            return {}
        assert isinstance(model, HeadedTransformer)
        probabilities_NC = class_probabilities(model, held_out.rows)
        found = asdict(score(probabilities_NC, held_out.classes_N))
        figures = {name: found[name] for name in _NAMES}
        if step == 0:
            write_json(run / BEFORE, {"said": probabilities_NC.argmax(1).tolist(), **figures})
        return {"validation_loss": figures.pop("loss"), **figures}

    return look


def _compare(
    model: HeadedTransformer, bag: BagOfWords | None, held_out: Texts, run: Path, notes: list[str]
) -> dict[str, Any]:
    """Write the outcome; the figures of the summary."""
    before = json.loads((run / BEFORE).read_text(encoding="utf-8"))
    probabilities_NC = class_probabilities(model, held_out.rows)
    after = score(probabilities_NC, held_out.classes_N)
    beside = score(bag(held_out.texts), held_out.classes_N) if bag else None
    figures = {name: getattr(after, name) for name in (*_NAMES, "interval") if name != "loss"}
    if beside:
        figures["bag_of_words"] = {name: getattr(beside, name) for name in _HIGHER}
        text = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures["bag_of_words"].items())
        notes.append(f"a bag of words (logistic regression on 1- and 2-grams) on the same texts: {text}")
        say(notes[-1])
    low, high = after.interval
    say(f"held-out accuracy {after.accuracy:.4f} ({low:.4f} to {high:.4f}), balanced {after.balanced_accuracy:.4f}")
    changes = [
        Change(text, before[n], getattr(after, n), "higher" if n in _HIGHER else "lower") for n, text in _NAMES.items()
    ]
    changes[0] = replace(changes[0], count=len(held_out.texts), share=True)
    curves = [Curve("train_accuracy", "accuracy in training"), Curve("accuracy", "held-out accuracy", "look")]
    examples = _examples(model.heads.labels, held_out, before["said"], probabilities_NC.argmax(1).tolist())
    confused = {"labels": list(model.heads.labels), "counts": after.confusion}
    more = {"after": asdict(after), "bag_of_words": asdict(beside) if beside else None}
    write_outcome(run, Outcome("classify", changes, curves, examples, confused, after.bins, notes, more))
    return figures


def _examples(labels: Sequence[str], held_out: Texts, before: list[int], after: list[int]) -> list[Example]:
    """Texts whose class is still wrong, and as many whose class is right."""
    found: dict[bool, list[Example]] = {False: [], True: []}
    for text, *classes in zip(held_out.texts, before, after, held_out.classes_N.tolist(), strict=True):
        first, last, true = classes
        said, says, expected = (labels[number] for number in classes)
        found[last == true].append(Example(text[:LETTERS], said, says, expected, first == true, last == true))
    return [*found[False][: EXAMPLES // 2], *found[True][: EXAMPLES // 2]]


def _write_limits(file: Path, longest: int, side: Side) -> None:
    """Where transformers looks for how long a text may be, and where it loses some."""
    config = read_json(file) if file.is_file() else {}
    write_json(file, {**config, "model_max_length": longest, "truncation_side": side})
