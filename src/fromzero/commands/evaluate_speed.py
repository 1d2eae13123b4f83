"""`fromzero evaluate speed MODEL`, or `--url http://HOST:PORT`: how fast a model answers under load."""

from typing import Any

from fromzero.commands import Verb
from fromzero.console import say, table
from fromzero.evaluation.speed import SpeedConfig, measure_speed

TIMES = ("ttft", "tpot", "itl", "e2el")


def run(config: SpeedConfig) -> None:
    """Measure, and print a column a level."""
    found = measure_speed(config, lambda level: say(f"{_load(level)}: {level['tokens_per_second']:.1f} tokens/s"))
    levels = found["levels"]
    rates = ("requests", "tokens", "prompt_tokens")
    rows = [
        [f"{n.replace('_', ' ')} a second", *(f"{level[f'{n}_per_second']:.2f}" for level in levels)] for n in rates
    ]
    rows += [[f"{n.upper()}, ms", *(_spread(level[f"{n}_ms"]) for level in levels)] for n in TIMES]
    header = ("p50 / p90 / p99", *map(_load, levels))
    table(f"{found['model']}, {found['measured']}", header, rows, "l" + "r" * len(levels))
    for level in levels:
        for kind, count in level["errors"].items():
            say(f"{_load(level)}: {count} requests failed ({kind})")


def _spread(times: dict[str, float] | None) -> str:
    return " / ".join(f"{times[p]:.0f}" for p in ("p50", "p90", "p99")) if times else "-"


def _load(level: dict[str, Any]) -> str:
    return f"{level['rate']:g} a second" if "rate" in level else f"{level['concurrency']} at once"


VERB = Verb(SpeedConfig, run, "model")
