"""`fromzero tokenizer compare`: tokenizers side by side on the same text."""

from collections.abc import Sequence

from rich.text import Text

from fromzero.commands import Verb
from fromzero.console import console, printable, say, table
from fromzero.explain import CompareConfig, compare_tokenizers
from fromzero.explain.about_tokenizers import compose_comparison, no_speed
from fromzero.explain.blocks import Block, Table
from fromzero.explain.words import Words
from fromzero.tokenizer.compare import Token, shown

TOKENS = 40  # of the passage in the terminal
_COLOURS = ("black on cyan", "black on yellow", "black on green", "black on magenta")


def run(config: CompareConfig) -> None:
    """Print the tables of the page, and a short passage as each tokenizer cuts it."""
    found = compare_tokenizers(config)
    words = Words(config.language)
    report = compose_comparison(found, words)
    _tables(report.title, report.lead)
    for section in report.sections:
        _tables(section.title, section.blocks)
    if found.tokenizers[0].speed is None:
        say(no_speed(words))
    for name, tokens in found.passages[0].tokens.items():
        console.print(Text.assemble((f"{name}  ", "bold"), _coloured(tokens or ())), soft_wrap=True)
    if config.output:
        print(config.output)


def _tables(title: str, blocks: Sequence[Block]) -> None:
    for block in blocks:
        if isinstance(block, Table):
            rows = [list(map(printable, row)) for row in block.rows]
            table(title, block.header, rows, block.align)


def _coloured(tokens: Sequence[Token]) -> Text:
    """Tokens in alternating colours, or between bars where there are none."""
    colours = console.color_system is not None
    pieces = [(shown(piece), _COLOURS[i % 4] if colours else "") for i, (_, piece) in enumerate(tokens[:TOKENS])]
    return Text("" if colours else "|").join(Text(text, style) for text, style in pieces)


VERB = Verb(CompareConfig, run, positional="tokenizers")
