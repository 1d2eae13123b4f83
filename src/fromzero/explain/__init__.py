"""Look inside a run: one report of what was made, from what, how good it is, and how to make it again.

In: the folder of a run, with one finished artifact for each stage. Out: `report.html`, one file that opens offline, and
`report.md` with the same facts. A stage that is missing has no section.

Of tokenizers: `compare_tokenizers` cuts the same text with several, and writes a page of the same make.

Of a corpus: `corpus_report.show_corpus` writes a page about what was kept and dropped, with examples.

Read in this order: `gather` (a run from disk), `blocks` (what a report is made of), `about_data`, `about_model` and
`about_run` (the facts, as blocks), `words` (in two languages), `charts` (SVG), `page` and `markdown` (how it looks);
`compare_report` and `about_tokenizers` for tokenizers; `corpus_sample`, `corpus_look` and `about_corpus` for a corpus.
"""

from fromzero.explain.compare_report import CompareConfig, compare_tokenizers
from fromzero.explain.report import ReportConfig, write_report

__all__ = ["CompareConfig", "ReportConfig", "compare_tokenizers", "write_report"]
