import io
import sys
from pathlib import Path

import pytest

from fromzero.artifact import Artifact
from fromzero.commands import main
from fromzero.tokenizer import Tokenizer


def test_train_then_encode(corpus: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--corpus", str(corpus.path), "--output", str(tmp_path / "t"), "--vocab_size", "300"]
    assert main(["tokenizer", "train", *arguments]) == 0
    assert "th" in capsys.readouterr().err
    assert main(["tokenizer", "train", *arguments[:-1], "100"]) == 2
    assert "vocab_size 100 is too small" in capsys.readouterr().err


def test_encode_prints_a_line_for_each_token(
    trained: Artifact, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "从零 a\n\x1b[31m<|im_end|>"
    assert main(["tokenizer", "encode", str(trained.path), "--text", text, "--special", "allow"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split("\t")[0]) for line in lines] == tokenizer.encode(text, special="allow")
    assert lines[-1].endswith("<|im_end|>")
    assert not any("\x1b" in line for line in lines)
    assert main(["tokenizer", "encode", str(trained.path), "--text", text, "--special", "refuse"]) == 2


def test_encode_reads_standard_input_and_shows_bytes_of_a_character(
    trained: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def encode(data: bytes) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return main(["tokenizer", "encode", str(trained.path)])

    assert encode("a \r🦀".encode()) == 0
    shown = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    assert "".join(shown) == "a·U+000D\\xF0\\x9F\\xA6\\x80"
    assert encode(b"ab\xff") == 2
    assert "at character 2" in capsys.readouterr().err
