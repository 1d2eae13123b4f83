"""`fromzero download NAME`: weights by name, into the user's cache."""

from fromzero.commands import Verb
from fromzero.console import say
from fromzero.interop.download import DownloadConfig, download


def run(config: DownloadConfig) -> None:
    """Fetch or check, and say where it is."""
    say(f"{config.name}: whole, in {download(config)}; commands that take a model take this name")


VERB = Verb(DownloadConfig, run, "name")
