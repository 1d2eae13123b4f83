"""`fromzero mix --config MIX.yaml`: several folders of tokens -> a mixture for pretraining."""

from fromzero.commands import Verb
from fromzero.console import table
from fromzero.dataset.mixing import MixConfig, mix


def run(config: MixConfig) -> None:
    """Plan the mixture and show what is drawn of each source."""
    mixture = mix(config)
    columns = ("source", "weight", "available", "drawn", "epochs", "max_epochs", "share")
    rows = [
        (row["phase"] or "all", *("" if row[column] is None else row[column] for column in columns))
        for row in mixture.summary["table"]
    ]
    header = ("phase", "source", "weight asked", "tokens there", "tokens drawn", "epochs", "at most", "share drawn")
    table(str(mixture), header, rows, "llrrrrrr")


VERB = Verb(MixConfig, run)
