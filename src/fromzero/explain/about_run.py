"""The whole report in its order, with its beginning (what was made) and its end (how to use and repeat it)."""

import json
from collections.abc import Callable
from typing import Any

from fromzero import __version__
from fromzero.config import to_yaml
from fromzero.device import Machine
from fromzero.explain import about_data, about_model
from fromzero.explain.about_model import best_baseline
from fromzero.explain.about_tuning import first_change, tuning_sections
from fromzero.explain.blocks import Block, Cards, Code, Details, Report, Section, Table, Text
from fromzero.explain.gather import Run, Training
from fromzero.explain.numbers import count, duration, figure, share, short, size, with_error
from fromzero.explain.words import Words

_SECTIONS: tuple[Callable[[Run, Words], Section | list[Section] | None], ...] = (
    about_data.input_section,
    about_data.dropped_section,
    about_data.tokenizer_section,
    about_data.mixture_section,
    about_model.base_section,
    about_model.scores_section,
    about_model.samples_section,
    tuning_sections,
    about_model.speed_section,
)


def compose(run: Run, words: Words, machine: Machine, title: str | None = None) -> Report:
    """A run as a report: each part that the run has, in the order of the pipeline."""
    sections: list[Section] = []
    for section in _SECTIONS:
        made = section(run, words)
        sections += made if isinstance(made, list) else [made] if made else []
    sections += [made for made in (_use(run, words), _repeat(run, words, machine)) if made]
    name = run.path.resolve().name
    return Report(
        title=title or words("title" if run.base else "title_tuned" if run.tuned else "title_data", name=name),
        language=words.language,
        lead=_lead(run, words),
        sections=tuple(sections),
        footer=words("footer", version=__version__, path=run.path.as_posix()),
    )


def _lead(run: Run, words: Words) -> tuple[Block, ...]:
    separator = "" if words.language == "zh" else " "
    sentences = [s for s in (_made(run, words), _good(run, words), *_changed(run, words)) if s]
    cards = Cards(tuple(card for card in _cards(run, words) if card))
    lead: tuple[Block, ...] = (Text(separator.join(sentences)),) if sentences else ()
    return (*lead, cards) if cards.cards else lead


def _made(run: Run, words: Words) -> str | None:
    if not run.base:
        return None
    summary, text = run.base.artifact.summary, _training_bytes(run)
    time = duration(summary["seconds"], words.language)
    return words("made", parameters=short(summary["parameters"]), bytes=size(text), time=time)


def _training_bytes(run: Run) -> int | None:
    stage = run.tokens or run.corpus
    if stage is None:
        return None
    return int(stage.summary["train"]["bytes"] if stage is run.tokens else stage.summary["bytes"]["train"])


def _good(run: Run, words: Words) -> str | None:
    if not run.scores:
        return None
    model = run.scores.summary["model"]
    if model["bits_per_byte"] is None:
        return words("no_bits", changed=count(model["changed"]), documents=count(model["documents"]))
    bits = with_error(model["bits_per_byte"], model["bits_per_byte_stderr"])
    if best := best_baseline(run):
        return words("good", model=bits, name=best[0], baseline=figure(best[1]))
    return words("good_alone", model=bits)


def _changed(run: Run, words: Words) -> list[str]:
    """A sentence for each tuned model."""
    found = [(t.artifact.path.name, first_change(t, words)) for t in run.tuned]
    keys = ("name", "before", "after")
    return [words("change", stage=stage, **dict(zip(keys, change, strict=True))) for stage, change in found if change]


def _cards(run: Run, words: Words) -> list[tuple[str, str, str] | None]:
    return [
        _parameters_card(run, words),
        _text_card(run, words),
        _time_card(run, words),
        *_score_cards(run, words),
        *_change_cards(run, words),
    ]


def _parameters_card(run: Run, words: Words) -> tuple[str, str, str] | None:
    if not run.base:
        return None
    summary = run.base.artifact.summary
    return short(summary["parameters"]), words("card_parameters"), str(summary.get("architecture", ""))


def _text_card(run: Run, words: Words) -> tuple[str, str, str] | None:
    if (text := _training_bytes(run)) is None:
        return None
    tokens = words("tokens_remark", tokens=short(run.tokens.summary["train"]["tokens"])) if run.tokens else ""
    return size(text), words("card_text"), tokens


def _time_card(run: Run, words: Words) -> tuple[str, str, str] | None:
    if not run.base:
        return None
    summary = run.base.artifact.summary
    seen = words("seen_remark", tokens=short(summary["tokens"]))
    return duration(summary["seconds"], words.language), words("card_time"), seen


def _score_cards(run: Run, words: Words) -> list[tuple[str, str, str] | None]:
    if not run.scores or (bits := run.scores.summary["model"]["bits_per_byte"]) is None:
        return []
    model = run.scores.summary["model"]
    error = "" if model["bits_per_byte_stderr"] is None else f"± {figure(model['bits_per_byte_stderr'])}"
    cards: list[tuple[str, str, str] | None] = [(figure(bits), words("card_bpb"), error)]
    if best := best_baseline(run):
        name, value = best
        label = words("card_less" if bits <= value else "card_more", name=name)
        cards.append((share(abs(value - bits), value), label, f"{name}: {figure(value)}"))
    return cards


def _change_cards(run: Run, words: Words) -> list[tuple[str, str, str] | None]:
    found = [(t.artifact.path.name, first_change(t, words)) for t in run.tuned]
    return [(c[2], f"{stage}: {c[0]}", words("card_before", before=c[1])) for stage, c in found if c]


def _use(run: Run, words: Words) -> Section | None:
    classifiers = [training for training in run.tuned if training.outcome.get("task") == "classify"]
    writers = [training for training in run.tuned if training.outcome.get("task") not in ("classify", "reward")]
    if not (found := [*classifiers, *([run.base] if run.base else []), *writers]):
        return None
    training, folder = found[-1], found[-1].artifact.path.as_posix()
    if training.outcome.get("task") == "classify":
        return Section("use", words("use"), (Code(f'fromzero generate {folder} --classify "TEXT"'),))
    if training is not run.base and _talks(training):
        return Section("use", words("use_chat"), (Code(f"fromzero chat {folder}"), Text(words("made_up"))))
    return Section("use", words("use"), (Code(f'fromzero generate {folder} --prompt "TEXT"'), Text(words("use_base"))))


def _talks(tuned: Training) -> bool:
    """Whether conversations are what it was tuned on, or it has a chat template."""
    file = tuned.artifact.path / "tokenizer_config.json"
    templated = file.is_file() and "chat_template" in json.loads(file.read_text(encoding="utf-8"))
    return tuned.outcome.get("task") in ("chat", "distill") or templated


def _repeat(run: Run, words: Words, machine: Machine) -> Section:
    # A recipe runs every stage in one command, and each stage's manifest has that same command.
    commands = list(dict.fromkeys(str(stage.manifest["command"]) for stage in run.stages))
    settings = tuple(
        Details(words("settings_of", stage=stage.path.name), (Code(to_yaml(stage.config), "yaml"),))
        for stage in run.stages
    )
    blocks: tuple[Block, ...] = (
        Text(words("repeat_lead")),
        Code("\n".join(commands)),
        *settings,
        Details(words("stages_title"), (_stages_table(run, words),)),
        Details(words("packages_title"), (_packages_table(run, words),)),
        Details(words("machine_title"), (_machine_table(machine, words),)),
    )
    return Section("repeat", words("repeat"), blocks)


def _stages_table(run: Run, words: Words) -> Table:
    rows = tuple(
        (stage.path.name, stage.kind, _seed(stage.config), str(stage.manifest["finished"]), stage.digest[:16])
        for stage in run.stages
    )
    return Table(tuple(words(key) for key in ("stage", "kind", "seed", "finished", "content")), rows, "llrll")


def _seed(config: Any) -> str:
    """The stage's own seed, or that of its training."""
    seed = config.get("seed", (config.get("train") or {}).get("seed"))
    return "" if seed is None else str(seed)


def _packages_table(run: Run, words: Words) -> Table:
    """Each package with its version; several, when the stages were made with different ones."""
    versions: dict[str, dict[str, None]] = {}
    for stage in run.stages:
        for name, version in stage.manifest["packages"].items():
            versions.setdefault(name, {})[version] = None
    rows = tuple((name, ", ".join(found)) for name, found in versions.items())
    return Table((words("package"), words("version")), rows, "ll")


def _machine_table(machine: Machine, words: Words) -> Table:
    rows = (
        (words("system"), machine.system),
        (words("device"), machine.device),
        (words("cores"), count(machine.cores)),
        (words("total_memory"), size(machine.memory_bytes)),
        (words("matrix_products", dtype="float32"), f"{short(machine.float32_flops)} FLOP/s"),
        (words("matrix_products", dtype="bfloat16"), f"{short(machine.bfloat16_flops)} FLOP/s"),
    )
    return Table((words("figure"), words("plain_value")), rows, "ll")
