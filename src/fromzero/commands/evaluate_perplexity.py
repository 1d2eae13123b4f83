"""`fromzero evaluate perplexity MODEL --corpus CORPUS --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.console import table
from fromzero.evaluation import EvaluationConfig, evaluate


def run(config: EvaluationConfig) -> None:
    """Evaluate and print the figures."""
    summary = evaluate(config).summary
    model = summary["model"]
    rows: list[tuple[str, str]] = [
        ("bits per byte", f"{model['bits_per_byte']:.4f} ± {model['bits_per_byte_stderr']:.4f}"),
        ("perplexity per token", f"{model['perplexity']:.2f} ± {model['perplexity_stderr']:.2f}"),
        ("nats per character", f"{model['nats_per_character']:.4f}"),
        ("documents, tokens, bytes", f"{model['documents']:,}, {model['tokens']:,}, {model['bytes']:,}"),
    ]
    rows += [(f"bits per byte of {name}", f"{value:.4f}") for name, value in summary.get("baselines", {}).items()]
    table(f"{config.model} on held-out documents (± standard error)", ("figure", "value"), rows)


VERB = Verb(EvaluationConfig, run, positional="model")
