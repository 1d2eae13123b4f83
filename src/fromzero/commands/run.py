"""`fromzero run RECIPE.yaml [--from STAGE] [--until STAGE]`."""

from fromzero.commands import Verb
from fromzero.recipe import RunConfig, run_recipe

VERB = Verb(RunConfig, run_recipe, "recipe", {"--from": "--from_stage", "--until": "--until_stage"})
