"""`fromzero report RUN`: the stages of a run -> report.html and report.md."""

from fromzero.commands import Verb
from fromzero.explain import ReportConfig, write_report


def run(config: ReportConfig) -> None:
    """Write the report and print where it is."""
    print(f"{write_report(config)}/report.html")


VERB = Verb(ReportConfig, run, positional="run")
