"""`fromzero corpus train-ngrams`: clean text -> language model of n-grams."""

from fromzero.commands import Verb
from fromzero.console import say
from fromzero.corpus.ngram_model import NgramConfig, train_ngrams


def run(config: NgramConfig) -> None:
    """Train the model and show the perplexity of held-out text and the cutoffs."""
    model = train_ngrams(config)
    found = model.summary
    say(f"{model}: {found['entries']:,} entries from {found['texts']:,} texts")
    say(
        f"median perplexity of held-out text {found['perplexity']:.4g}; cutoffs {found['low']:.4g}, {found['high']:.4g}"
    )


VERB = Verb(NgramConfig, run)
