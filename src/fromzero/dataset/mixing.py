"""The stage that plans a mixture: how many windows of tokens are drawn from each source, phase by phase.

Three numbers say how much of a source is seen: its weight in the mixture, the tokens that it has, and its epochs, which
are weight * tokens of the mixture / tokens of the source. Table 2.2 of the paper on GPT-3 (Brown et al. 2020) lists all
three, and most of its rows don't agree. Here each may be left out, and what is given is checked.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact, build, open_artifact
from fromzero.dataset.packing import summarise
from fromzero.dataset.shards import TokenShards
from fromzero.dataset.writing import SPLITS, copy_tokenizer
from fromzero.errors import UserError, nearest
from fromzero.files import write_json

PLAN = "mixture.json"
EPOCHS_TOLERANCE = 0.01  # of the epochs
SUM_TOLERANCE = 0.005  # of shares, so that they may be rounded


@dataclass(frozen=True)
class Source:
    """Tokens, and how much is drawn of them."""

    tokens: Path
    """Folder of tokens, made by `fromzero pack`."""
    weight: float | None = None
    """Share of the mixture. Shares sum to 1; if all weights are whole numbers, they are ratios."""
    epochs: float | None = None
    """How often its tokens are seen: instead of a weight, or beside one that it then has to agree with."""
    max_epochs: float | None = None
    """Most epochs; what the weight asks for beyond them is drawn from the others."""


@dataclass(frozen=True)
class Phase:
    """A part of training with weights of its own."""

    tokens: int
    """Tokens to draw."""
    sources: dict[str, float]
    """Name of a source -> its weight in this phase."""


@dataclass(frozen=True)
class MixConfig:
    """How sources of tokens are mixed for pretraining."""

    sources: dict[str, Source]
    """Name -> tokens and how much of them: {zh: {tokens: runs/zh, weight: 0.3}, ...}. Without weights: by size."""
    output: Path
    """Folder for the mixture, which refers to the tokens where they are."""
    context: int
    """Tokens in a window: the context of the model that is trained."""
    tokens: int | None = None
    """Tokens of the whole mixture; null takes what the epochs of all sources make."""
    temperature: float | None = None
    """Instead of weights: shares go with the sizes of sources to the power of 1 / temperature; XLM-R's is 3.3."""
    phases: tuple[Phase, ...] = ()
    """Instead of tokens and weights: a curriculum, one phase after the other."""


def mix(config: MixConfig) -> Artifact:
    """Plan a mixture; a 'mixture' artifact, which `pretrain` takes for tokens.

    Its summary: `table`, what was asked of each source and what is drawn, and for both splits the documents, tokens and
    bytes of all sources. Raises UserError for tokens of several tokenizers, and for numbers that contradict each other.
    """
    found = {name: open_artifact(source.tokens, "tokens") for name, source in sorted(config.sources.items())}
    _check_positive(config)
    windows = _count_windows({name: tokens.path for name, tokens in found.items()}, config.context)
    phases = plan(config, windows)

    def make(folder: Path) -> Mapping[str, Any]:
        entries = {}
        for name, tokens in found.items():
            asked = config.sources[name].tokens
            path = asked.resolve() if asked == tokens.path else asked  # a URL stays one
            entries[name] = {"tokens": path, "digest": tokens.digest}
        write_json(folder / PLAN, {"context": config.context, "sources": entries, "phases": [n for _, n in phases]})
        copy_tokenizer(next(iter(found.values())).path, folder)
        return {"table": tabulate(config, windows, phases), **_summed([tokens.summary for tokens in found.values()])}

    inputs = {name: tokens.digest for name, tokens in found.items()}
    return build(config.output, "mixture", config, inputs, make, ignore=("output",))


def _summed(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counted = ("documents", "tokens", "bytes")
    return summarise({split: {key: sum(s[split][key] for s in summaries) for key in counted} for split in SPLITS})


def _check_positive(config: MixConfig) -> None:
    parts = [("", config), *config.sources.items(), *((f"phase {i}", p) for i, p in enumerate(config.phases, 1))]
    for where, part in parts:
        for name in ("context", "tokens", "temperature", "epochs", "max_epochs"):
            value = getattr(part, name, None)
            if isinstance(value, int | float) and not 0 < value < math.inf:
                raise UserError(f"{where} {name} is {value}; it must be above 0".lstrip())


def _count_windows(paths: Mapping[str, Path], context: int) -> dict[str, int]:
    """Windows of each source: context ids, and one more to predict."""
    if not paths:
        raise UserError("sources is empty; name the tokens to mix, as in {zh: {tokens: runs/zh}}")
    shards = {name: TokenShards(path) for name, path in paths.items()}
    first, *_ = shards
    for name, tokens in shards.items():
        if tokens.tokenizer_digest != shards[first].tokenizer_digest:
            raise UserError(f"{first} and {name} were packed with different tokenizers; pack them with the same one")
        if len(tokens) <= context:
            raise UserError(f"{name} has {len(tokens)} tokens, too few for a window of {context}; leave it out")
    return {name: (len(tokens) - 1) // context for name, tokens in shards.items()}


def plan(config: MixConfig, windows: Mapping[str, int]) -> list[tuple[Phase, dict[str, int]]]:
    """The phases, their weights made shares that sum to 1, each with the windows that it draws from its sources.

    windows: how many each source has. Raises UserError for numbers that contradict each other.
    """
    available = {name: n * config.context for name, n in windows.items()}
    phases = _with_shares(config, available)
    total = sum(phase.tokens for phase in phases)
    room: dict[str, float] = {}
    for name, source in config.sources.items():
        if source.epochs is not None:
            asked = sum(phase.tokens * phase.sources.get(name, 0) for phase in phases)
            check_epochs(name, asked / total, total, available[name], source.epochs)
        room[name] = math.inf if source.max_epochs is None else math.floor(source.max_epochs * windows[name])
    planned = []
    for phase in phases:
        if phase.tokens < config.context:
            raise UserError(f"{phase.tokens} tokens to draw are fewer than one window of {config.context}; draw more")
        drawn = deal(phase.sources, room, phase.tokens // config.context)
        room = {name: left - drawn.get(name, 0) for name, left in room.items()}
        planned.append((phase, drawn))
    return planned


def _with_shares(config: MixConfig, available: Mapping[str, int]) -> list[Phase]:
    """The phases, or all as one phase."""
    sources = config.sources
    weights = {name: s.weight for name, s in sources.items() if s.weight is not None}
    seen = {name: s.epochs * available[name] for name, s in sources.items() if s.epochs is not None}
    if (config.phases and (weights or config.tokens or config.temperature)) or (weights and config.temperature):
        raise UserError(
            "give weights of sources, or temperature, or phases with their own tokens and weights: only one"
        )
    if config.phases:
        return [Phase(p.tokens, shares(p.sources, f"phase {i}", sources)) for i, p in enumerate(config.phases, 1)]
    if not config.tokens and seen.keys() != sources.keys():
        raise UserError("tokens is missing: say how many tokens the mixture has, or give the epochs of every source")
    tokens = config.tokens or round(sum(seen.values()))
    if config.temperature or not weights | seen:
        largest = max(available.values())
        powers = {name: (size / largest) ** (1 / (config.temperature or 1)) for name, size in available.items()}
        return [Phase(tokens, {name: power / sum(powers.values()) for name, power in powers.items()})]
    weights = {name: size / tokens for name, size in seen.items()} | weights
    if missing := sorted(sources.keys() - weights):
        raise UserError(f"{missing[0]} has no weight, though others have; give it one, 0 or more, or its epochs")
    return [Phase(tokens, shares(weights, "the sources", sources))]


def shares(weights: Mapping[str, float], where: str, sources: Mapping[str, Any]) -> dict[str, float]:
    """Weights as shares: whole numbers are ratios, others have to sum to 1 already, but for rounding.

    They are not scaled, because a wrong sum is more often a slip than meant. Raises UserError that says the sum.
    """
    for name, weight in weights.items():
        if name not in sources:
            raise UserError(f"{where}: no source is called '{name}'{nearest(name, sources)}")
        if not 0 <= weight < math.inf:
            raise UserError(f"{where}: the weight of {name} is {weight}; it must be at least 0")
    total = sum(weights.values())
    ratios = total > 0 and all(weight == int(weight) for weight in weights.values())
    if not ratios and abs(total - 1) > SUM_TOLERANCE:
        raise UserError(f"the weights of {where} sum to {total:.4g}, not 1; change them, or give ratios: whole numbers")
    return {name: weight / total for name, weight in weights.items()}


def check_epochs(name: str, weight: float, total: float, available: float, epochs: float) -> None:
    """Raise UserError when a source's weight and epochs don't agree, with what each number would have to be."""
    found = weight * total / available
    if abs(found - epochs) > EPOCHS_TOLERANCE * epochs:
        raise UserError(
            f"{name}: a weight of {weight:.4g} in {total:,.0f} tokens makes {found:.4g} epochs of the {available:,.0f} "
            f"that it has, not {epochs:.4g}; change the weight to {epochs * available / total:.4g}, or the epochs to "
            f"{found:.4g}, or give it {weight * total / epochs:,.0f} tokens"
        )


def deal(weights: Mapping[str, float], room: Mapping[str, float], windows: int) -> dict[str, int]:
    """Windows of each source: by weight, but at most as many as there is room for.

    What is over goes to the other sources by weight, again within their limits; with equal weights that is UniMax
    (Chung et al. 2023). Parts of windows go to the largest remainders. Raises UserError when the room is too small.
    """
    free = {name: weight for name, weight in sorted(weights.items()) if weight}
    if (most := sum(room[name] for name in free)) < windows:
        raise UserError(f"max_epochs leaves {most:,} of the {windows:,} windows asked for; raise it, or lower tokens")
    exact: dict[str, float] = {}
    left: float = windows
    while free:
        part = {name: left * weight / sum(free.values()) for name, weight in free.items()}
        full = {name: room[name] for name in free if part[name] > room[name]}
        exact |= full or part
        left -= sum(full.values())
        free = {name: weight for name, weight in free.items() if full and name not in full}
    drawn = {name: math.floor(size) for name, size in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (drawn[name] - exact[name], name))
    for name in by_remainder[: windows - sum(drawn.values())]:
        drawn[name] += 1
    return drawn


def tabulate(
    config: MixConfig, windows: Mapping[str, int], phases: list[tuple[Phase, dict[str, int]]]
) -> list[dict[str, Any]]:
    """A row for each source and phase, where there are several, then for each source in all of them, phase 0."""
    parts = [(i, [phase]) for i, phase in enumerate(phases, 1)] if len(phases) > 1 else []
    rows = []
    for number, part in [*parts, (0, phases)]:
        tokens, total = sum(phase.tokens for phase, _ in part), sum(sum(drawn.values()) for _, drawn in part)
        for name, size in windows.items():
            asked = sum(phase.tokens * phase.sources.get(name, 0) for phase, _ in part)
            count = sum(drawn.get(name, 0) for _, drawn in part)
            row = {"phase": number, "source": name, "weight": asked / tokens, "available": size * config.context}
            row |= {"drawn": count * config.context, "epochs": count / size, "share": count / total}
            rows.append({**row, "max_epochs": config.sources[name].max_epochs})
    return rows
