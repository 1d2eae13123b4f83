"""`fromzero estimate PRESET|MODEL`: parameters, arithmetic and memory of a model, before there is one."""

from fromzero.commands import Verb
from fromzero.console import human_count, table
from fromzero.scaling import EstimateConfig, estimate


def run(config: EstimateConfig) -> None:
    """Print the figures."""
    rows = [(name, human_count(value), f"{value:,.0f}") for name, value in estimate(config).items()]
    table(config.name or "the settings of model", ("figure", "about", "exactly"), rows, " rr")


VERB = Verb(EstimateConfig, run, "name")
