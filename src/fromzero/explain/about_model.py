"""The sections about models: how the base model learned, how good it is, what it writes; and how fast all learned."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fromzero.explain.blocks import Block, Charts, Details, Samples, Section, Table, Text
from fromzero.explain.charts import Bar, BarChart, Chart, Line, LineChart, Point
from fromzero.explain.gather import Run, Training
from fromzero.explain.numbers import NONE, count, duration, figure, share, short, size, with_error
from fromzero.explain.words import Words

MOST_POINTS = 5  # samples of one prompt side by side
MOST_EXAMPLES = 6  # examples of a tuned model in full view; the others can be opened
MOST_ROWS = 25  # of the table behind the curves


def base_section(run: Run, words: Words) -> Section | None:
    """The shape of the base model and the curves of its training."""
    if not run.base:
        return None
    base = run.base
    charts = [loss_chart(base, words, words("held_out_loss")), _bpb_chart(run, words)]
    charts += [rate_chart(base, words), _norm_chart(base, words)]
    blocks = (Text(_shape(base, words)), *curves(base, charts, words, "held_out_loss"))
    return Section("base", words("base"), blocks)


def _shape(base: Training, words: Words) -> str:
    summary, model, train = base.artifact.summary, base.artifact.config["model"], base.artifact.config["train"]
    return words(
        "shape",
        family=str(summary.get("architecture", "Transformer")),
        **{key: count(model[key]) for key in ("layers", "width", "heads", "context")},
        parameters=count(summary["parameters"]),
        steps=count(summary["steps"]),
        batch=count(train["batch_size"] * model["context"]),
    )


def curves(training: Training, charts: Iterable[Chart | None], words: Words, held_out: str) -> list[Block]:
    """Charts, and the figures behind them."""
    drawn = tuple(chart for chart in charts if chart is not None)
    if not drawn:
        return []
    return [Charts(drawn), Details(words("curve"), (_curve_table(training, words, held_out),))]


def points(lines: Iterable[Mapping[str, Any]], key: str) -> tuple[Point, ...]:
    """(step, figure) of the lines that have it."""
    return tuple((float(line["step"]), float(line[key])) for line in lines if line.get(key) is not None)


def loss_chart(training: Training, words: Words, held_out: str, axis: str = "nats") -> LineChart | None:
    """The loss of batches and of looks."""
    lines = [
        Line(words("train_loss"), points(training.steps, "loss")),
        Line(held_out, points(training.looks, "validation_loss"), "marked"),
    ]
    return _line_chart(words, "loss_title", "step", axis, [line for line in lines if line.points])


def _step_chart(training: Training, words: Words, key: str, title: str, axis: str) -> LineChart | None:
    found = points(training.steps, key)
    return _line_chart(words, title, "step", axis, [Line(words(axis), found)] if found else [])


def rate_chart(training: Training, words: Words) -> LineChart | None:
    """The learning rate."""
    return _step_chart(training, words, "learning_rate", "rate_title", "rate_axis")


def _norm_chart(training: Training, words: Words) -> LineChart | None:
    return _step_chart(training, words, "gradient_norm", "norm_title", "norm_axis")


def _bpb_chart(run: Run, words: Words) -> LineChart | None:
    assert run.base
    tokens = _tokens_at(run.base)
    bits = tuple((tokens(step), value) for step, value in points(run.base.looks, "validation_bits_per_byte"))
    lines = [Line(words("bpb_axis"), bits, "marked")] if bits else []
    best = best_baseline(run)
    return _line_chart(words, "bpb_title", "tokens", "bpb_axis", lines, (best,) if best else ())


def _tokens_at(training: Training) -> Any:
    """Step -> tokens seen; each step takes as many."""
    last = training.steps[-1] if training.steps else {"tokens": 1, "step": 1}
    per_step = last["tokens"] / last["step"]
    return lambda step: step * per_step


def _line_chart(
    words: Words, title: str, x: str, y: str, lines: Sequence[Line], references: tuple[tuple[str, float], ...] = ()
) -> LineChart | None:
    return LineChart(words(title), words(x), words(y), tuple(lines), references) if lines else None


def _curve_table(training: Training, words: Words, held_out: str) -> Table:
    """What was measured at each look, beside the last training step before it."""
    columns = {held_out: "validation_loss", "bpb_axis": "validation_bits_per_byte"}
    columns = {name: key for name, key in columns.items() if any(key in look for look in training.looks)}
    rows = []
    for look in spread(training.looks, MOST_ROWS):
        before = [step for step in training.steps if step["step"] <= look["step"]]
        loss = figure(before[-1]["loss"]) if before else NONE
        rows.append((count(look["step"]), loss, *(figure(look.get(key)) for key in columns.values())))
    header = (words("step"), words("train_loss"), *(words(name) for name in columns))
    return Table(header, tuple(rows), "r" * len(header))


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def best_baseline(run: Run) -> tuple[str, float] | None:
    """Name and bits per byte of the strongest baseline."""
    found = run.scores.summary.get("baselines") if run.scores else None
    return min(found.items(), key=lambda item: item[1]) if found else None


def scores_section(run: Run, words: Words) -> Section | None:
    """Bits per byte beside the baselines, and the other figures of the evaluation."""
    if not run.scores:
        return None
    model, baselines = run.scores.summary["model"], run.scores.summary.get("baselines", {})
    bits, error = model["bits_per_byte"], model["bits_per_byte_stderr"]
    bars = [] if bits is None else [Bar(words("this_model"), bits, with_error(bits, error), error=error)]
    bars += [
        Bar(name, value, figure(value), main=False) for name, value in sorted(baselines.items(), key=lambda b: b[1])
    ]
    extent = {"documents": count(model["documents"]), "tokens": count(model["tokens"]), "bytes": size(model["bytes"])}
    rows = (
        (words("bpb_axis"), with_error(bits, error)),
        (words("perplexity"), with_error(model["perplexity"], model["perplexity_stderr"], 2)),
        (words("nats_per_character"), figure(model["nats_per_character"])),
        (words("evaluated"), words("evaluated_on", **extent)),
        *([(words("spelled"), share(model["spelled"], model["bytes"]))] if model.get("spelled") else []),
    )
    chart = BarChart(words("bpb_title"), tuple(bars))
    blocks = (Text(words("scores_lead")), Charts((chart,)), Table((words("figure"), words("value")), rows, "lr"))
    return Section("scores", words("scores"), blocks)


def speed_section(run: Run, words: Words) -> Section | None:
    """Time, tokens per second, FLOP/s and memory of each training."""
    trainings = [
        *([(words("base_model"), run.base)] if run.base else []),
        *((t.artifact.path.name, t) for t in run.tuned),
    ]
    found = [(name, training) for name, training in trainings if training.steps]
    if not found:
        return None
    columns = [_speed(training, words) for _, training in found]
    figures = {name: [column[name] for column in columns] for name in columns[0]}
    rows = tuple((name, *values) for name, values in figures.items() if set(values) != {NONE})
    header = ("", *(name for name, _ in found))
    return Section("speed", words("speed"), (Table(header, rows, "l" + "r" * len(columns)),))


def _speed(training: Training, words: Words) -> dict[str, str]:
    def median(key: str) -> float | None:
        values = [line[key] for line in training.steps if line.get(key) is not None]
        return statistics.median(values) if values else None

    summary = training.artifact.summary
    used, peak = median("mfu"), max((line.get("peak_memory_bytes", 0) for line in training.steps), default=0)
    speed, waited = median("tokens_per_second") or 0.0, median("data_seconds")
    error = (summary.get("estimate_error") or {}).get("step")
    return {
        words("seconds"): duration(summary.get("seconds"), words.language),
        words("tokens"): short(summary.get("tokens")),
        words("tokens_per_second"): short(speed or None),
        words("flops"): short(median("flops_per_second")),
        words("mfu"): NONE if used is None else share(used, 1),
        words("memory"): size(peak or None),
        words("skipped_steps"): count(training.steps[-1].get("skipped")),
        words("data_wait"): NONE if waited is None else share(waited * speed * summary["steps"], summary["tokens"]),
        words("step_estimate"): NONE if error is None else f"{error:+.0%}",
    }


def samples_section(run: Run, words: Words) -> Section | None:
    """The same prompts, continued at several points of the base model's training."""
    if not run.base or not run.base.samples:
        return None
    prompts: dict[str, list[tuple[str, str]]] = {}
    for line in run.base.samples:
        prompts.setdefault(line["prompt"], []).append((words("at_step", step=count(line["step"])), line["text"]))
    blocks = [Samples(prompt, tuple(spread(texts, MOST_POINTS))) for prompt, texts in prompts.items()]
    return Section("samples", words("samples"), (Text(words("samples_lead")), *blocks))
