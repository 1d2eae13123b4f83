"""`fromzero pretrain --tokens TOKENS --output FOLDER`."""

from fromzero.commands import Verb
from fromzero.training import PretrainConfig, pretrain
from fromzero.training.preview import show_schedule


def run(config: PretrainConfig) -> None:
    """Train, or show how it would be done."""
    if config.print_schedule:
        show_schedule(config)
    else:
        pretrain(config)


VERB = Verb(PretrainConfig, run, aliases={"--profile": "--train.profile_steps"})
