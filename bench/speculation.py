"""Speculative decoding beside plain decoding: the same model, the same answers, fewer steps.

    python bench/speculation.py MODEL [--speculate lookup] [--draft MODEL] [--rounds 5] [--tokens 120] [--save]

MODEL is a folder, a GGUF file or the name of a downloaded model, such as smollm2-135m-instruct. Two engines have the
same weights and take turns. Quoting: a text is to be said again, greedily. Open text: a story is
sampled, where nothing can be looked up. Both engines give the same tokens; where that is not so (a near tie that the
order of additions decides), the row says so. Times are from the first token to the last, prompts don't count.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from common import machine_lines, markdown_table, publish
from fromzero.inference import SamplingConfig
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.opening import open_engine
from fromzero.inference.request import Request

TEXT = """def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)

def variance(values):
    center = mean(values)
    total = 0.0
    for value in values:
        total += (value - center) ** 2
    return total / len(values)

def largest(values):
    best = values[0]
    for value in values[1:]:
        if value > best:
            best = value
    return best
"""
TASKS = {
    "quoting: the same again": (f"# numbers.py\n{TEXT}\n# numbers.py, an exact copy\n{TEXT[:40]}", 0.0),
    "quoting: after a remark": (f"The file:\n\n{TEXT}\nIt has three functions. Again:\n\n{TEXT[:40]}", 0.0),
    "open text, sampled": ("The old lighthouse keeper had a secret that nobody in the village knew. One night", 0.8),
    "open text, sampled hot": ("Ten surprising facts about the deep sea, told by a diver:", 1.0),
}  # fmt: skip


def main() -> None:
    """Measure all tasks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--speculate", choices=["lookup", "draft", "ahead"], default="lookup")
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    config = EngineConfig(cache_tokens=4096, speculate=arguments.speculate, draft=arguments.draft)
    guessing = open_engine(arguments.model, "cpu", config)
    plain = Engine(guessing.model, guessing.tokenizer, EngineConfig(cache_tokens=4096))
    rows = [measure(name, plain, guessing, arguments.rounds, arguments.tokens) for name in TASKS]
    header = ["task", "plain tokens/s", "drafting tokens/s", "times plain", "lowest", "tokens a step", "drafts right"]
    body = (
        f"{arguments.model.name}, speculate {arguments.speculate}, {arguments.rounds} rounds of {arguments.tokens} "
        f"tokens, medians, {type(guessing.runner).__name__}.\n\n{markdown_table([*header, 'same tokens'], rows)}"
    )
    publish("speculation", "Speculative decoding", body, machine_lines(), arguments.save)


def measure(name: str, plain: Engine, guessing: Engine, rounds: int, tokens: int) -> list[str]:
    """A row of the table; the first round warms up, and is not counted."""
    found: dict[str, list[float]] = {"plain": [], "guessing": []}
    same, before = 0, guessing.stats
    for number in range(rounds + 1):
        answers = {}
        for system in ("plain", "guessing") if number % 2 else ("guessing", "plain"):
            answers[system], speed = answer(plain if system == "plain" else guessing, name, tokens, number)
            found[system].append(speed)
        same += answers["plain"] == answers["guessing"]
    after = guessing.stats
    drafted, accepted = after.drafted - before.drafted, after.accepted - before.accepted
    produced, steps = after.generated_tokens - before.generated_tokens, after.steps - before.steps
    ratios = [ours / theirs for ours, theirs in zip(found["guessing"][1:], found["plain"][1:], strict=True)]
    return [
        name, *(f"{statistics.median(speeds[1:]):.1f}" for speeds in found.values()),
        f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f}", f"{produced / steps:.2f}",
        f"{accepted / drafted:.0%} of {drafted}" if drafted else "none", f"{same} of {rounds + 1}",
    ]  # fmt: skip


def answer(engine: Engine, name: str, tokens: int, seed: int) -> tuple[Sequence[int], float]:
    """The tokens of one answer, and how many came in a second after the first."""
    text, temperature = TASKS[name]
    sampling = SamplingConfig(temperature=temperature, max_tokens=tokens, seed=seed, ignore_end=True)
    [outputs] = engine.answers([Request(f"{name}", tuple(engine.tokenizer.encode(text)), sampling)]).values()
    timing = outputs[-1].timing
    assert timing is not None
    answered = [token for output in outputs for token in output.tokens]
    return answered, (len(answered) - 1) / (timing.last - timing.first)


if __name__ == "__main__":
    main()
