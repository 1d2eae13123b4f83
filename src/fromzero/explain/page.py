"""A report as one HTML file: no script, nothing loaded from anywhere, styles and pictures inside."""

import re
from importlib import resources

import jinja2
from markupsafe import Markup

from fromzero.explain.blocks import Report
from fromzero.explain.charts import draw

# Control characters and lone surrogates are not allowed in HTML; a half-trained model may write any of them. Overrides
# of direction show text as it is not.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def to_html(report: Report) -> str:
    """The page. Every text in the report is escaped by the template; only our own drawings and styles are not."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_clean
    )
    template = environment.from_string(_read("report.html"))
    return template.render(report=report, css=Markup(_read("report.css")), draw=lambda chart: Markup(draw(chart)))  # noqa: S704


def _read(name: str) -> str:
    return resources.files("fromzero.explain").joinpath(name).read_text(encoding="utf-8")


def _clean(value: object) -> object:
    return _FORBIDDEN.sub("\ufffd", value) if isinstance(value, str) and not isinstance(value, Markup) else value
