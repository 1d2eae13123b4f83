"""`fromzero pack`: corpus + tokenizer -> token shards."""

from fromzero.commands import Verb
from fromzero.console import table
from fromzero.dataset import PackConfig, pack


def run(config: PackConfig) -> None:
    """Pack the corpus and show how many tokens there are."""
    tokens = pack(config)
    columns = ("documents", "tokens", "bytes", "bytes_per_token")
    rows = [(split, *(tokens.summary[split][column] for column in columns)) for split in ("train", "validation")]
    table(str(tokens), ("split", *(column.replace("_", " ") for column in columns)), rows)


VERB = Verb(PackConfig, run)
