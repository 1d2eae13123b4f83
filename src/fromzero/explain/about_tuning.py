"""The sections about tuned models: what each was like before and after, how it got there, and what is to be known.

From `run/outcome.json` (see tuning/outcome.py), `run/metrics.jsonl` and, where a stage names no examples, its samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fromzero.evaluation.classification import wilson
from fromzero.explain.about_model import MOST_EXAMPLES, curves, loss_chart, points, rate_chart, spread
from fromzero.explain.blocks import Block, Charts, Details, Samples, Section, Table, Text
from fromzero.explain.charts import Chart, Line, LineChart, Matrix
from fromzero.explain.gather import Run, Training
from fromzero.explain.numbers import NO_BREAK, NONE, count, figure, share
from fromzero.explain.words import Words

MOST_LABELS = 24  # of a confusion matrix that is drawn
MOST_CONFUSIONS = 10  # of a table of them
_FORGETTING = ("retained_bits_per_byte", "retained_loss")


def tuning_sections(run: Run, words: Words) -> list[Section]:
    """A section for each tuned model."""
    return [_section(training, run, words) for training in run.tuned]


def changes(training: Training) -> list[Mapping[str, Any]]:
    """What its stage measured before and after, and what was forgotten, where the looks have it."""
    found = list(training.outcome.get("changes", ()))
    key = _FORGETTING[0] if any(_FORGETTING[0] in look for look in training.looks) else _FORGETTING[1]
    if len(seen := points(training.looks, key)) > 1 and not any(change["name"] in _FORGETTING for change in found):
        found.append({"name": key, "before": seen[0][1], "after": seen[-1][1], "better": "lower"})
    return found


def first_change(training: Training, words: Words) -> tuple[str, str, str] | None:
    """What the first figure is called, and its value before and after."""
    for change in training.outcome.get("changes", ()):
        if change["before"] is not None and change["after"] is not None:
            name = _name(change["name"], words)
            return name, _value(change, change["before"]), _value(change, change["after"])
    return None


def _name(name: str, words: Words) -> str:
    """What a figure is called, up to its colon, in the words of the report."""
    head, colon, rest = name.partition(": ")
    return words.name("change", head) + colon + rest


def _section(training: Training, run: Run, words: Words) -> Section:
    outcome, name = training.outcome, training.artifact.path.name
    task = words.name("task", outcome.get("task", "chat"))
    blocks: list[Block] = [*_learned_from(training, run, words)]
    if measured := changes(training):
        blocks += [Text(words("changes_lead")), _changes_table(measured, words)]
    charts = [loss_chart(training, words, words("held_out"), "loss_axis"), *_curve_charts(training, words)]
    blocks += curves(training, [*charts, rate_chart(training, words)], words, "held_out")
    blocks += [*_confusion(outcome, words), *_calibration(outcome, words), *_examples(training, words)]
    if notes := outcome.get("notes"):
        blocks.append(Table((words("notes"),), tuple((note,) for note in notes), "l"))
    return Section(f"tuned-{name}", words("tuned", stage=name, task=task), tuple(blocks))


def _learned_from(training: Training, run: Run, words: Words) -> list[Block]:
    """Of a model tuned on conversations of this run: how many, of which kinds."""
    inputs = training.artifact.manifest["inputs"].values()
    if not run.questions or run.questions.digest not in inputs:
        return []
    made = run.questions.summary
    parts = {side: count(made.get(side)) for side in ("train", "validation")}
    rows = tuple((str(kind), count(n)) for kind, n in made.get("kinds", {}).items())
    lead = Text(words("chat_lead", steps=count(training.artifact.summary.get("steps")), **parts))
    return [lead, Table((words("question_kind"), words("conversations")), rows, "lr")]


def _changes_table(measured: Sequence[Mapping[str, Any]], words: Words) -> Table:
    keys = ("figure", "before", "after", "verdict", "examined")
    rows = tuple(
        (
            _name(change["name"], words),
            _with_interval(change, change["before"]),
            _with_interval(change, change["after"]),
            _verdict(change, words),
            count(change.get("count") or None),
        )
        for change in measured
    )
    return Table(tuple(words(key) for key in keys), rows, "lrrlr")


def _value(change: Mapping[str, Any], value: float | None) -> str:
    if value is None:
        return NONE
    return share(value, 1) if change.get("share") else f"{value:,.{max(0, 4 - len(str(int(abs(value)))))}f}"


def _interval(change: Mapping[str, Any], value: float | None) -> tuple[float, float] | None:
    """The 95 % interval of a share of things that were counted."""
    known = value is not None and change.get("share") and change.get("count")
    return wilson((value or 0.0) * change["count"], change["count"]) if known else None


def _with_interval(change: Mapping[str, Any], value: float | None) -> str:
    ends = _interval(change, value)
    shown = f" [{100 * ends[0]:.1f}–{100 * ends[1]:.1f}]" if ends else ""
    return (_value(change, value) + shown).replace(" ", NO_BREAK)


def _verdict(change: Mapping[str, Any], words: Words) -> str:
    before, after, better = change["before"], change["after"], change.get("better")
    if before is None or after is None or not better:
        return ""
    if before == after:
        return words("same")
    first, last = _interval(change, before), _interval(change, after)
    if first and last and first[0] <= last[1] and last[0] <= first[1]:
        return words("unclear")
    return words("improved" if (after > before) == (better == "higher") else "worsened")


def _curve_charts(training: Training, words: Words) -> list[Chart]:
    """Curves of one name share a chart: that of training, that of looks."""
    named = [*training.outcome.get("curves", ()), *({"key": k, "name": k, "kind": "look"} for k in _FORGETTING[:1])]
    found: dict[str, list[Line]] = {}
    for curve in named:
        at_look = curve.get("kind") == "look"
        lines = points(training.looks if at_look else training.steps, curve["key"])
        if lines and curve["key"] not in ("loss", "validation_loss"):
            line = Line(words("held_out" if at_look else "train_loss"), lines, "marked" if at_look else "plain")
            found.setdefault(_name(curve["name"], words), []).append(line)
    return [LineChart(name, words("step"), "", tuple(lines)) for name, lines in found.items()]


def _confusion(outcome: Mapping[str, Any], words: Words) -> list[Block]:
    """The matrix as a picture, and what is taken for what most often."""
    if not (confusion := outcome.get("confusion")):
        return []
    labels, counts = [str(label) for label in confusion["labels"]], confusion["counts"]
    blocks: list[Block] = []
    if len(labels) <= MOST_LABELS:
        rows = tuple(tuple(row) for row in counts)
        blocks.append(Charts((Matrix(words("confusion"), words("true"), words("said"), tuple(labels), rows),)))
    wrong = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j]
    worst = sorted(wrong, key=lambda cell: -cell[0])[:MOST_CONFUSIONS]
    rows = tuple((labels[i], labels[j], count(n), share(n, sum(counts[i]))) for n, i, j in worst)
    header = tuple(words(key) for key in ("true", "said", "texts", "share_of_true"))
    return [*blocks, Details(words("confusions"), (Table(header, rows, "llrr"),))] if rows else blocks


def _calibration(outcome: Mapping[str, Any], words: Words) -> list[Block]:
    """Accuracy over confidence, and the mean distance of both (ECE; Guo et al. 2017)."""
    bins = [found for found in outcome.get("calibration", ()) if found["count"]]
    if not bins:
        return []
    total = sum(found["count"] for found in bins)
    error = sum(found["count"] * abs(found["accuracy"] - found["confidence"]) for found in bins) / total
    measured = tuple((found["confidence"], found["accuracy"]) for found in bins)
    lines = (Line(words("this_model"), measured, "marked"), Line(words("ideal"), ((0.0, 0.0), (1.0, 1.0))))
    chart = LineChart(words("calibration"), words("confidence"), words("accuracy"), lines)
    rows = tuple((figure(f["confidence"]), figure(f["accuracy"]), count(f["count"])) for f in bins)
    table = Table((words("confidence"), words("accuracy"), words("texts")), rows, "rrr")
    lead = Text(words("calibration_lead", error=share(error, 1)))
    return [lead, Charts((chart,)), Details(words("curve"), (table,))]


def _examples(training: Training, words: Words) -> list[Block]:
    examples = _named_examples(training, words) or _samples(training, words)
    shown = spread(examples, MOST_EXAMPLES)
    rest = tuple(example for example in examples if example not in shown)
    more = [Details(words("more_examples", count=count(len(rest))), rest)] if rest else []
    return [*shown, *more]


def _named_examples(training: Training, words: Words) -> list[Samples]:
    def label(example: Mapping[str, Any], key: str) -> str:
        right = example.get(f"right_{key}")
        return words(key) if right is None else f"{words(key)} {'✓' if right else '✗'}"

    keys = ("expected", "before", "after")
    return [
        Samples(example["prompt"], tuple((label(example, key), example[key]) for key in keys if example.get(key)))
        for example in training.outcome.get("examples", ())
    ]


def _samples(training: Training, words: Words) -> list[Samples]:
    """The first and the last sample of each prompt."""
    prompts: dict[str, list[str]] = {}
    for line in training.samples:
        prompts.setdefault(line["prompt"], []).append(line["text"])
    both = {prompt: said for prompt, said in prompts.items() if len(said) > 1}
    return [Samples(p, ((words("before"), said[0]), (words("after"), said[-1]))) for p, said in both.items()]
