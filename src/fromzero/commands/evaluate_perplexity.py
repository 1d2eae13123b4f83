"""`fromzero evaluate perplexity MODEL --corpus CORPUS --output FOLDER`."""

from collections.abc import Mapping
from typing import Any

from fromzero.commands import Verb
from fromzero.console import say, table
from fromzero.evaluation import EvaluationConfig, evaluate


def run(config: EvaluationConfig) -> None:
    """Evaluate and print the figures."""
    summary = evaluate(config).summary
    model = summary["model"]
    rows: list[tuple[str, str]] = [
        ("bits per byte", _with_error(model, "bits_per_byte", 4)),
        ("perplexity per token", _with_error(model, "perplexity", 2)),
        ("nats per character", _with_error(model, "nats_per_character", 4)),
        ("documents, tokens, bytes", f"{model['documents']:,}, {model['tokens']:,}, {model['bytes']:,}"),
    ]
    if model["spelled"]:
        rows.append(("unknown text, charged at 8 bits a byte", f"{model['spelled']:,} bytes"))
    rows += [(f"bits per byte of {name}", f"{value:.4f}") for name, value in summary.get("baselines", {}).items()]
    if model["changed"]:
        say(
            f"no bits per byte: the tokenizer changes {model['changed']:,} of the {model['documents']:,} documents, "
            "so its tokens don't hold their text"
        )
    table(f"{config.model} on held-out documents (± standard error)", ("figure", "value"), rows)


def _with_error(figures: Mapping[str, Any], name: str, digits: int) -> str:
    error = figures.get(f"{name}_stderr")
    if figures[name] is None:
        return "not measured"
    return f"{figures[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


VERB = Verb(EvaluationConfig, run, positional="model")
