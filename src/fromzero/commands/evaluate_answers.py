"""`fromzero evaluate answers MODEL --tasks.source SOURCE --output FILE`, with `--against MODEL` to compare."""

from fromzero.commands import Verb
from fromzero.console import say, table
from fromzero.evaluation.compare import AnswersConfig, evaluate_answers


def run(config: AnswersConfig) -> None:
    """Let them answer, and print the figures."""
    found, rows = evaluate_answers(config), []
    for model in found["models"]:
        figures = {"score": (model["score"], model["interval"], model["n"]), **(model["instructions"] or {})}
        for name, (share, (low, high), n) in figures.items():
            rows.append((model["model"].name, name.replace("_", ", "), f"{share:.1%}", f"{low:.1%} to {high:.1%}", n))
        for why, number in model["failures"].items():
            say(f"{model['model']}: {number} answers without a score ({why})")
    table(f"{config.tasks.source}, with 95 % intervals", ("model", "figure", "share", "interval", "of"), rows, "llrrr")
    if against := found.get("comparison"):
        low, high = against["win_rate_interval"]
        outcome = f"{against['wins']} wins, {against['ties']} ties, {against['losses']} losses"
        rate = f"a win rate of {against['win_rate']:.1%} ({low:.1%} to {high:.1%}); p = {against['p']:.3g}"
        say(f"{config.model} against {config.against}: {outcome}, {rate}")


VERB = Verb(AnswersConfig, run, "model")
