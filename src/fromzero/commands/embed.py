"""`fromzero embed MODEL --texts ... | --documents FOLDER --query TEXT`: vectors of texts, and search with them."""

import json
from dataclasses import dataclass
from pathlib import Path

from fromzero.commands import Verb
from fromzero.console import printable, say
from fromzero.device import DeviceName
from fromzero.errors import UserError
from fromzero.inference.embedding import Embedder
from fromzero.inference.retrieval import Index


@dataclass(frozen=True)
class EmbedConfig:
    """What becomes vectors, and what is looked for."""

    model: Path = Path("minilm-l6-v2")
    """Folder of an encoder, or the name of a downloaded one."""
    texts: tuple[str, ...] = ()
    """Texts whose vectors are written to standard output, a JSON object a line."""
    documents: Path | None = None
    """Folder of text files to search in."""
    query: tuple[str, ...] = ()
    """What to look for in the documents."""
    top: int = 5
    """Passages that are shown for each query."""
    output: Path | None = None
    """Folder for the index of the documents; null keeps it in the user's cache."""
    device: DeviceName = "auto"
    """Where the model runs."""


def run(config: EmbedConfig) -> None:
    """Write the vectors, or the passages that are nearest to each query."""
    if not config.texts and not config.documents:
        raise UserError("there is nothing to embed; give --texts, or --documents FOLDER and --query")
    embedder = Embedder(config.model, config.device)
    for text, vector in zip(config.texts, embedder(config.texts).tolist(), strict=True):
        print(json.dumps({"text": text, "vector": vector}, ensure_ascii=False))
    if config.documents:
        index = Index(config.documents, embedder, config.output)
        say(f"{config.documents}: {len(index.passages):,} passages")
        for query in config.query:
            for score, (file, line, text) in index.search(query, config.top):
                print(f"{score:.3f}  {file}, line {line}\n{printable(text)}\n")


VERB = Verb(EmbedConfig, run, "model")
