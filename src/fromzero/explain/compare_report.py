"""`fromzero tokenizer compare`: tokenizers and text -> the figures, and a page with the text as each cuts it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fromzero.console import printable
from fromzero.errors import UserError
from fromzero.explain.about_tokenizers import compose_comparison
from fromzero.explain.markdown import to_markdown
from fromzero.explain.page import to_html
from fromzero.explain.words import Language, Words
from fromzero.files import write_text
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.tokenizer.compare import Comparison, compare
from fromzero.tokenizer.compare_text import read_groups


@dataclass(frozen=True)
class CompareConfig:
    """Which tokenizers are compared, on what."""

    tokenizers: tuple[str, ...]
    """Folders or files with tokenizers, ours or another's; NAME=PATH gives one another name than that of its folder."""
    text: tuple[Path, ...] = ()
    """Text files, source code, folders of them, or corpora; without any, a built-in sample. At most 1 MB of each
    language is read."""
    output: Path | None = None
    """Page to write: HTML, or Markdown when it ends in .md; null writes none."""
    language: Language = "en"
    """Language of everything but the text: English or Chinese."""


def compare_tokenizers(config: CompareConfig) -> Comparison:
    """Compare, and write the page where one is asked for.

    Raises UserError for a tokenizer or a text that can't be read, for two tokenizers of one name, and when the
    page would replace a folder.
    """
    if config.output and config.output.is_dir():
        raise UserError(f"{config.output} is a folder; name a file for the page, such as {config.output / 'page.html'}")
    found = compare(load_named(config.tokenizers), read_groups(config.text))
    if config.output:
        report = compose_comparison(found, Words(config.language))
        config.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(config.output, (to_markdown if config.output.suffix == ".md" else to_html)(report))
    return found


def load_named(given: Sequence[str]) -> dict[str, Tokenizer]:
    """Name -> tokenizer, of 'PATH' or 'NAME=PATH'."""
    if not given:
        raise UserError("there is no tokenizer to compare; name one or more folders or files")
    loaded: dict[str, Tokenizer] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = _name(Path(text).absolute()), text
        name = printable(name)
        if name in loaded:
            raise UserError(f"two tokenizers are named '{name}'; name one as NAME={path}")
        loaded[name] = load_tokenizer(Path(path))
    return loaded


def _name(path: Path) -> str:
    """The name of a file or folder, or of what it lies in when it is just called 'tokenizer'."""
    return next((place.name for place in (path, *path.parents) if place.stem not in ("", "tokenizer")), str(path))
