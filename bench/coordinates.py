"""The coordinate check of muP (Yang et al. 2022, appendix D.1), as a picture.

    python bench/coordinates.py [--optimizer adamw] [--rate 0.01]

Models of several widths learn one batch by heart, with and without muP. Writes docs/coordinates.svg: how large
the outputs of layers are after four steps, beside those of the narrowest model. With muP no curve rises.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from math import log2
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromzero.explain.charts import HEIGHT, WIDTH, Line, LineChart, draw_lines, tag, text
from fromzero.model import ModelConfig, Transformer, functions
from fromzero.training import TrainConfig
from fromzero.training.mup import parametrized, scale_weights
from fromzero.training.optimizers import make_optimizer

SHAPE = ModelConfig(vocab_size=64, context=32, layers=2, width=64, heads=4)
LIMITS = (("twice as large", 1.0), ("half as large", -1.0))
WIDTHS = (64, 128, 256, 512)
Coordinates = dict[str, dict[int, list[float]]]
"""Kind of layer -> width -> mean |activation| before the first step and after each."""


def coordinates(shape: ModelConfig, train: TrainConfig, widths: Iterable[int], steps: int = 4) -> Coordinates:
    """The coordinate check (Yang et al. 2022, appendix D.1): models of a shape, but for its width, learn one batch.

    Under muP no curve should depend on the width; without it, some grow with it. Ids are random, by train.seed.
    """
    found: Coordinates = defaultdict(dict)
    for width in widths:
        config = parametrized(replace(shape, width=width), train)
        model = Transformer(config, train.seed)
        scale_weights(model, width, train)
        optimizer = make_optimizer(model.named_parameters(), train, width)
        draw = torch.Generator().manual_seed(train.seed)
        ids_BT = torch.randint(config.vocab_size, (train.batch_size, config.context), generator=draw)
        with _watched(model) as sizes:
            for _ in range(steps + 1):
                functions.cross_entropy(model(ids_BT)[:, :-1], ids_BT[:, 1:]).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        for kind, values in sizes.items():
            each = len(values) // (steps + 1)  # layers of a kind
            found[kind][width] = [sum(values[i : i + each]) / each for i in range(0, len(values), each)]
    return dict(found)


@contextmanager
def _watched(model: Transformer) -> Iterator[dict[str, list[float]]]:
    """The mean |output| of each layer in each forward pass, by its kind."""
    sizes: dict[str, list[float]] = defaultdict(list)
    kinds = {"attention": "attention", "feed_forward": "feed-forward", "token_embedding": "embedding", "head": "logits"}
    hooks = []
    for name, module in model.named_modules():
        if kind := kinds.get(name.rpartition(".")[2]):

            def hook(module: nn.Module, inputs: Any, output: Tensor, kind: str = kind) -> None:
                sizes[kind].append(float(output.detach().abs().mean()))

            hooks.append(module.register_forward_hook(hook))
    try:
        yield sizes
    finally:
        for handle in hooks:
            handle.remove()


def picture(optimizer: Any, rate: float) -> str:
    """Two charts side by side, as one SVG file."""
    parts = [tag("style", _style()), tag("rect", width="100%", height="100%", class_="paper")]
    titles = {"standard": "without muP", "mup": "with muP"}
    for place, (name, title) in enumerate(titles.items()):
        train = TrainConfig(
            optimizer=optimizer, learning_rate=rate, batch_size=8, parametrization=name, base_width=64, weight_decay=0.0
        )  # type: ignore[arg-type]
        found = coordinates(SHAPE, train, WIDTHS)
        for kind, sizes in found.items():
            print(title, kind, *(f"{width}: {values[-1]:.4g}" for width, values in sizes.items()))
        lines = tuple(
            Line(
                kind,
                tuple((log2(w / WIDTHS[0]), log2(v[-1] / sizes[WIDTHS[0]][-1])) for w, v in sizes.items()),
                "marked",
            )
            for kind, sizes in found.items()
            if kind != "embedding"  # which hardly grows either way; a chart has three colours
        )
        chart = LineChart(
            title, "doublings of the width", "doublings of mean |output|", lines, LIMITS if name == "mup" else ()
        )
        left = 20 + place * (WIDTH + 40)
        parts.append(text(left, 30, f"{optimizer}, {title}", "label strong"))
        drawn = draw_lines(chart).replace("<svg ", f'<svg x="{left}" y="40" width="{WIDTH}" height="{HEIGHT}" ', 1)
        parts.append(drawn)
    box = f"0 0 {2 * WIDTH + 80} {HEIGHT + 60}"
    return tag("svg", parts, xmlns="http://www.w3.org/2000/svg", viewBox=box, font_family="sans-serif") + "\n"


def _style() -> str:
    """The report's colours and the rules of its charts, for a file that stands alone."""
    css = files("fromzero.explain").joinpath("report.css").read_text()
    rules = [line for line in css.splitlines() if line.startswith(".chart ")]
    rules += [line.replace(".chart ", "") for line in rules if ".label" in line or ".strong" in line]
    return css[: css.index("* {")].replace(":root", "svg") + "\n".join(rules) + " .paper { fill: var(--paper); }"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--rate", type=float, default=0.01)
    given = parser.parse_args()
    (Path(__file__).resolve().parents[1] / "docs" / "coordinates.svg").write_text(picture(given.optimizer, given.rate))


if __name__ == "__main__":
    main()
