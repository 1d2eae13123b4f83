"""`fromzero estimate PRESET|MODEL`, or `--recipe R`: what a model, or a training, takes before there is one."""

from fromzero.commands import Verb
from fromzero.config import from_mapping, read_yaml
from fromzero.console import human_count, table
from fromzero.dataset.mixture import open_data
from fromzero.errors import UserError
from fromzero.recipe import Stage, settings_of
from fromzero.scaling import EstimateConfig, estimate, estimate_training
from fromzero.tokenizer import TokenizerConfig, load_tokenizer
from fromzero.training import PretrainConfig


def run(config: EstimateConfig) -> None:
    """Print the figures."""
    if config.recipe is None:
        figures = [(name, human_count(value), f"{value:,.0f}") for name, value in estimate(config).items()]
        table(config.name or "the settings of model", ("figure", "about", "exactly"), figures, " rr")
        return
    plan, stages = _plan(config)
    found = estimate_training(plan, _vocab_size(plan, stages), config.hardware, config.price)
    where = config.hardware or "this machine"
    table(f"{config.recipe.stem} on {where}", ("figure", "about"), list(found.items()), " r")


def _plan(config: EstimateConfig) -> tuple[PretrainConfig, list[Stage]]:
    """The settings of the training, and the stages that it is one of."""
    recipe = config.recipe
    assert recipe is not None
    if recipe.is_file() and "stages" not in (values := read_yaml(recipe)):
        return from_mapping(PretrainConfig, values, str(recipe)), []
    return settings_of(recipe, config.stage, "pretrain")


def _vocab_size(plan: PretrainConfig, stages: list[Stage]) -> int:
    """Of the shape, of the tokenizer where there is one by now, or as the recipe will train it."""
    if plan.model.vocab_size:
        return plan.model.vocab_size
    if plan.tokenizer is not None and plan.tokenizer.exists():
        return load_tokenizer(plan.tokenizer).vocab_size
    if plan.tokens is not None and plan.tokens.exists():
        return load_tokenizer(open_data(plan.tokens).path).vocab_size
    for stage in stages:
        if stage.verb == "tokenizer train":
            return int(stage.settings.get("vocab_size", TokenizerConfig.vocab_size))
    raise UserError("there is no tokenizer yet, so the size of its vocabulary is not known; set model.vocab_size")


VERB = Verb(EstimateConfig, run, "name")
