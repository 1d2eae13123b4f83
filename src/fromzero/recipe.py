"""A recipe: a chain of stages in one YAML file.

    output: runs/mine
    stages:
      corpus:    {verb: corpus build, inputs: [my_documents]}
      tokenizer: {verb: tokenizer train, corpus: "@corpus", vocab_size: 8192}

Each stage names its verb and that verb's settings. It writes to OUTPUT/NAME; "@NAME" is the folder of an earlier stage
and "@" the output folder itself. Stages that are up to date are skipped, one that was cut off goes on.
"""

import importlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact, open_artifact
from fromzero.config import from_mapping, read_yaml
from fromzero.console import say
from fromzero.errors import UserError, nearest

# Verb -> where its settings and its function are; imported only when a recipe uses it.
STAGES = {
    "documentation": "fromzero.corpus.documentation:DocumentationConfig:collect_documentation",
    "corpus build": "fromzero.corpus:CorpusConfig:build_corpus",
    "tokenizer train": "fromzero.tokenizer:TokenizerConfig:train_tokenizer",
    "pack": "fromzero.dataset:PackConfig:pack",
    "mix": "fromzero.dataset.mixing:MixConfig:mix",
    "pretrain": "fromzero.training:PretrainConfig:pretrain",
    "evaluate perplexity": "fromzero.evaluation:EvaluationConfig:evaluate",
    "finetune questions": "fromzero.tuning:QuestionsConfig:make_questions",
    "finetune chat": "fromzero.tuning:ChatConfig:finetune_chat",
    "finetune classify": "fromzero.tuning.classify:ClassifyConfig:finetune_classify",
    "finetune distill": "fromzero.tuning.distill:DistillConfig:finetune_distill",
    "finetune answers": "fromzero.tuning.collected:AnswersConfig:collect_answers",
    "align tasks": "fromzero.tuning.worked:WorkedConfig:make_worked",
    "align answers": "fromzero.tuning.answer_pairs:AnswerPairsConfig:make_answer_pairs",
    "align reward": "fromzero.tuning.reward:RewardConfig:align_reward",
    "align dpo": "fromzero.tuning.preference:PreferenceConfig:align_preferences",
    "align reinforce": "fromzero.tuning.reinforce:ReinforceConfig:align_reinforce",
    "align expert-iteration": "fromzero.tuning.expert_iteration:ExpertIterationConfig:align_expert_iteration",
    "align grpo": "fromzero.tuning.grpo:GrpoConfig:align_grpo",
    "align ppo": "fromzero.tuning.ppo:PpoConfig:align_ppo",
    "report": "fromzero.explain:ReportConfig:write_report",
}


@dataclass(frozen=True)
class RunConfig:
    """Which recipe, and how much of it."""

    recipe: Path
    """YAML file of stages, or the name of one that comes with fromzero."""
    output: Path | None = None
    """Folder for all stages, instead of the recipe's own."""
    from_stage: str | None = None
    """Begin with this stage (--from for short); the ones before it must be finished and are not looked at again."""
    until_stage: str | None = None
    """End with this stage (--until for short)."""
    skip: tuple[str, ...] = ()
    """Stages that are left out."""
    set: dict[str, Any] | None = None
    """Settings that replace the recipe's, as in --set '{base.train.steps: 100, tokenizer.vocab_size: 512}'."""


@dataclass(frozen=True)
class Stage:
    """One step of a recipe, with its settings filled in but not yet checked against its verb."""

    name: str
    verb: str
    settings: Mapping[str, Any]

    @property
    def output(self) -> Path:
        """The folder that it writes."""
        return Path(self.settings["output"])


def run_recipe(config: RunConfig) -> dict[str, Artifact]:
    """Run the stages in order; the artifacts by stage name. All settings are checked before the first stage starts."""
    path = find_recipe(config.recipe)
    stages = read_stages(path, config.output, config.set or {}, config.skip)
    chosen = _between(stages, config.from_stage, config.until_stage, path)
    ready = [(stage, *_resolve(stage, f"{path}: stage {stage.name}")) for stage in chosen]
    done = {}
    for number, (stage, settings, function) in enumerate(ready, 1):
        say(f"\n[{number}/{len(ready)}] {stage.name}: {stage.verb}")
        done[stage.name] = function(settings)
    return done


def settings_of(recipe: Path, name: str, verb: str) -> tuple[Any, list[Stage]]:
    """Settings of the stage of that name, or of the first with that verb; and all stages. Raises UserError."""
    path = find_recipe(recipe)
    stages = read_stages(path)
    found = [stage for stage in stages if (stage.name == name if name else stage.verb == verb)]
    if not found or found[0].verb != verb:
        fitting = [stage.name for stage in stages if stage.verb == verb]
        raise UserError(f"{path}: no stage '{name}' for {verb}{nearest(name, fitting)}")
    return _resolve(found[0], f"{path}: stage {found[0].name}")[0], stages


def find_recipe(recipe: Path) -> Path:
    """The file itself, or the recipe of that name that comes with fromzero."""
    if recipe.suffix in (".yaml", ".yml") and recipe.is_file():
        return recipe
    here = Path(__file__).parent
    folders = [here / "recipes", here.parents[1] / "recipes"]  # installed, or in a checkout
    for folder in folders:
        if (found := folder / f"{recipe.stem}.yaml").exists() and str(recipe.parent) in (".", "recipes"):
            return found
    names = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    raise UserError(f"{recipe}: no such recipe{nearest(recipe.stem, names)}")


def read_stages(
    path: Path, output: Path | None = None, changes: Mapping[str, Any] | None = None, skip: Collection[str] = ()
) -> list[Stage]:
    """The stages of a recipe with outputs and references filled in. Raises UserError that names file and key."""
    recipe = read_yaml(path)
    for key in recipe:
        if key not in ("output", "stages"):
            raise UserError(f"{path}: unknown key '{key}'{nearest(key, ('output', 'stages'))}")
    raw = recipe.get("stages")
    if not isinstance(raw, Mapping) or not all(isinstance(stage, Mapping) for stage in raw.values()):
        raise UserError(f"{path} needs `stages:` with a mapping of settings for each stage name")
    if odd := [name for name in raw if not re.fullmatch(r"[\w-]+", str(name))]:
        raise UserError(f"{path}: '{odd[0]}' can't be the name of a stage; use letters, digits, - and _")
    if not isinstance(recipe.get("output", ""), str):
        raise UserError(f"{path}: output takes a path, not {recipe['output']!r}")
    folder = output or Path(recipe.get("output") or f"runs/{path.stem}")
    stages: list[Stage] = []
    tree = {str(name): dict(stage) for name, stage in raw.items()}
    _apply(changes or {}, tree)
    for name in skip:
        if tree.pop(name, None) is None:
            raise UserError(f"{path} has no stage '{name}'{nearest(name, tree)}")
    for name, settings in tree.items():
        verb = settings.pop("verb", None)
        if not isinstance(verb, str) or verb not in STAGES:
            raise UserError(f"{path}: stage {name} has the verb {verb!r}{nearest(str(verb), STAGES)}")
        places = {"": folder} | {stage.name: stage.output for stage in stages}
        settings = {"output": str(folder / name)} | {k: _filled(v, places, path) for k, v in settings.items()}
        if not isinstance(settings["output"], str):
            raise UserError(f"{path}: stage {name}: output takes a path, not {settings['output']!r}")
        stages.append(Stage(name, verb, settings))
    return stages


def _apply(changes: Mapping[str, Any], tree: dict[str, dict[str, Any]]) -> None:
    for key, value in changes.items():
        stage, *parts = str(key).split(".")
        if stage not in tree or not parts:
            raise UserError(f"--set {key}: the first part names a stage{nearest(stage, tree)}")
        place = tree[stage]
        for part in parts[:-1]:
            if not isinstance(place.get(part) or {}, Mapping):
                raise UserError(f"--set {key}: '{part}' is not a group of settings")
            place[part] = dict(place.get(part) or {})
            place = place[part]
        place[parts[-1]] = value


def _filled(value: Any, places: Mapping[str, Path], recipe: Path) -> Any:
    """The value with every "@name" replaced by that stage's folder."""
    if isinstance(value, list):
        return [_filled(v, places, recipe) for v in value]
    if isinstance(value, Mapping):
        return {k: _filled(v, places, recipe) for k, v in value.items()}
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    name, _, rest = value[1:].partition("/")
    if name not in places:
        raise UserError(f"{recipe}: '{value}' names no stage before it{nearest(name, [p for p in places if p])}")
    return str(places[name] / rest) if rest else str(places[name])


def _between(stages: list[Stage], first: str | None, last: str | None, path: Path) -> list[Stage]:
    names = [stage.name for stage in stages]
    for name in (first, last):
        if name is not None and name not in names:
            raise UserError(f"{path} has no stage '{name}'{nearest(name, names)}")
    begin = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    if begin >= end:
        raise UserError(f"stage '{first}' comes after stage '{last}' in {path}; swap --from and --until")
    for stage in stages[:begin]:
        open_artifact(stage.output)
    return stages[begin:end]


def _resolve(stage: Stage, where: str) -> tuple[Any, Callable[[Any], Artifact]]:
    module, settings, function = STAGES[stage.verb].split(":")
    imported = importlib.import_module(module)
    return from_mapping(getattr(imported, settings), stage.settings, where), getattr(imported, function)
