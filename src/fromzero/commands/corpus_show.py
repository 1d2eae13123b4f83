"""`fromzero corpus show CORPUS`: what was kept and dropped, and why, as a page."""

import webbrowser

from fromzero.commands import Verb
from fromzero.explain.corpus_report import PAGE, ShowConfig, show_corpus


def run(config: ShowConfig) -> None:
    """Write the page, print where it is, and open it if asked to."""
    page = show_corpus(config).path / PAGE
    print(page)
    if config.open:
        webbrowser.open(page.absolute().as_uri())


VERB = Verb(ShowConfig, run, positional="corpus")
