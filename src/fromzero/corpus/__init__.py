"""Documents -> clean text.

In: files and folders of documents in many formats (`files.KINDS`), in any common encoding, Chinese or English. Out: a
corpus, a folder of Parquet shards `train-*.parquet` and `validation-*.parquet` with the columns of `Document`,
`rejected/` with the reason for each document that was dropped, and `counts.json`, whose numbers add up.

Read in this order: settings (what can be chosen), document, pipeline (the whole stage on one page), files (which ones
are read), partitions and engine (who reads them), pool and worker (parsing in child processes); reading, formats,
records, archives, html, pdf, packages, warc and encoding (what files hold); normalize, cutting, language, rules,
statistics and filters (what is kept), masking; shingles, near_duplicates, splitting, storing, counting.

Used alone: duplicates, substrings and decontaminate (what several texts share), lists, examples, classifier and
ngram_model. documentation and docstrings make raw documents from what is installed here.
"""

from fromzero.corpus.document import Document
from fromzero.corpus.documentation import collect_documentation
from fromzero.corpus.pipeline import build_corpus
from fromzero.corpus.settings import CorpusConfig
from fromzero.corpus.storing import read_corpus

__all__ = ["CorpusConfig", "Document", "build_corpus", "collect_documentation", "read_corpus"]
