"""`fromzero tokenizer train`: corpus -> tokenizer of any kind."""

from fromzero.commands import Verb
from fromzero.console import say, table
from fromzero.tokenizer import TokenizerConfig, train_tokenizer


def run(config: TokenizerConfig) -> None:
    """Train the tokenizer and show how much text a token holds, in each split and language."""
    tokenizer = train_tokenizer(config)
    summary = tokenizer.summary
    rows = []
    for split in ("train", "validation"):
        for language, found in {"all": summary[split], **summary[split]["languages"]}.items():
            rows.append((split, language, found["bytes"], found["tokens"], found["bytes_per_token"]))
    merges = f", {summary['merges']} merges" if summary["merges"] else ""
    say(f"{tokenizer}: {summary['vocab_size']} tokens{merges}")
    table("on a sample of each split", ("split", "language", "bytes", "tokens", "bytes per token"), rows)


VERB = Verb(TokenizerConfig, run)
