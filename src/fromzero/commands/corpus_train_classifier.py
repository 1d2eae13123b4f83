"""`fromzero corpus train-classifier`: examples of good and bad text -> classifier of quality."""

from fromzero.commands import Verb
from fromzero.console import say, table
from fromzero.corpus.classifier import ClassifierConfig, train_classifier


def run(config: ClassifierConfig) -> None:
    """Train the classifier and show how well it tells held-out examples apart."""
    classifier = train_classifier(config)
    found = classifier.summary
    rows = [(name, found[key], found[f"{key}_error"]) for name, key in (("accuracy", "accuracy"), ("ROC AUC", "auc"))]
    title = f"{classifier}: {found['held_out']:,} held-out examples, trained on {found['trained_on']:,}"
    table(title, ("measure", "value", "standard error"), rows)
    kept = (
        f"{config.keep:.3g} of {found['pool']:,} documents and {found['kept_positives']:.3g} of the positive examples"
    )
    say(f"threshold {found['threshold']:.4g} keeps {kept}")


VERB = Verb(ClassifierConfig, run)
