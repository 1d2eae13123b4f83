"""Numbers for people, and text that can't take over a terminal."""

import pytest
from rich.cells import cell_len

from fromzero import console


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12, "12"), (1234, "1,234"), (12345, "12.3k"), (1234567, "1.23M"), (2.5e9, "2.5G"), (0.123, "0.123")],
)
def test_counts(value: float, text: str) -> None:
    assert console.human_count(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.6, "1m 00s"), (75, "1m 15s"), (3700, "1h 01m")])
def test_times(seconds: float, text: str) -> None:
    assert console.human_seconds(seconds) == text


def test_control_characters_become_visible() -> None:
    assert console.printable("a\x1b[31mb\nc\td\x00从") == "a\\x1b[31mb\nc\td\\x00从"


def test_tables_break_words_only_where_they_must(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    header, row = ("a tokenizer", "词元 / 词", "bytes"), ("bert-base-uncased", "几个 字", "1.5\u00a0kB")
    for width, words in (
        (40, {"a tokenizer", "词元 / 词", "bert-base-uncased", "几个 字", "1.5 kB"}),
        (33, {"a tokenizer", "词元 /", "词", "bert-base-uncased", "几个", "字", "1.5 kB"}),
        (20, {"tokeni", "词元", "/", "bert-b", "1.5 kB"}),
    ):
        monkeypatch.setattr(console.console, "width", width)
        console.table("title", header, [row], "lrr")
        lines = capsys.readouterr().err.splitlines()
        assert max(map(cell_len, lines)) <= width
        assert words <= {cell.strip() for line in lines for cell in line.split("  ")}


def test_progress_in_a_log_is_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "PLAIN_INTERVAL_SECONDS", 0.0)
    with console.progress("working", 100, "B") as report:
        report(50, "loss 1.5")
    line = capsys.readouterr().err.strip()
    assert line.startswith("working:  50%,")
    assert line.endswith("loss 1.5")


def test_a_message_with_brackets_is_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("a [red]word[/red]")
    assert capsys.readouterr().err == "a [red]word[/red]\n"
