"""The command line as a user meets it: help, mistakes, exit codes; a whole quickstart on a folder of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fromzero.commands import VERBS, main
from tests.conftest import Chain, RunCommand, sentences

# A one-page PDF with Helvetica text: the smallest that is valid.
_PDF = """%PDF-1.4
1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj
2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj
3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources <</Font <</F1 5 0 R>>>>>> endobj
4 0 obj <</Length {length}>> stream
{stream}
endstream endobj
5 0 obj <</Type /Font /Subtype /Type1 /BaseFont /Helvetica>> endobj
trailer <</Root 1 0 R>>
"""
BUILD = ("corpus", "build", "--inputs", "[in]", "--output", "out")
_CHINESE = "从前有一座山，山里有一条小河。河边住着一位老人，他每天清晨都去河边散步。老人喜欢看云，也喜欢听风。"


def pdf(text: str) -> bytes:
    lines = "".join(f"({line}) Tj T*\n" for line in text.splitlines())
    stream = f"BT /F1 10 Tf 12 TL 40 760 Td\n{lines}ET"
    return _PDF.format(length=len(stream), stream=stream).encode("latin-1")


def test_help_lists_every_verb_and_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for verb in VERBS:
        assert verb in overview
        with pytest.raises(SystemExit) as ended:
            main([*verb.split(), "--help"])
        assert ended.value.code == 0
        assert "--config" in capsys.readouterr().out
    assert main(["--version"]) == 0


def test_help_does_not_load_torch(command: RunCommand) -> None:
    code = "import sys; from fromzero.commands import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpsu", "build"], "unknown verb 'corpsu'"),
        (["corpus", "biuld"], "unknown verb 'corpus biuld'; did you mean 'corpus build'?"),
        (["chat", "nowhere"], "nowhere"),
        (["pretrain", "--tokens", "x", "--output", "y", "--train.stepz", "3"], "did you mean '--train.steps'?"),
        (["run", "nothing.yaml"], "no such recipe"),
        (["corpus", "build", "--inputs", "[nowhere]", "--output", "x"], "nowhere"),
        (["generate", "nowhere"], "nowhere"),
        ([*BUILD, "--filters.limits", "{min_word: 3}"], "there is no rule 'min_word'; did you mean 'min_words'?"),
        (
            [*BUILD, "--filters.limits", "{min_words:3}"],
            "--filters.limits takes names in braces, as in '{name: value}'",
        ),
        ([*BUILD, "--classifiers", "3"], "'{name: value}', each value a path, not '3'"),
        (
            [*BUILD, "--lists.domains", "[3"],
            "--lists.domains takes a list in brackets, as in '[a, b]', each item a path",
        ),
        ([*BUILD, "--lists.max_words", "x"], "--lists.max_words takes a number, not 'x'"),
        ([*BUILD, "--masking", "5"], "--masking takes settings in braces, as in '{secret: ...}' or null, not '5'"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_path_that_holds_terminal_codes_is_made_visible(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "\x1b[31mred"]) == 2
    assert "\x1b[31mred" not in capsys.readouterr().err


def test_chat_and_generate_stream_to_standard_output(command: RunCommand, tiny_model: Path) -> None:
    result = command(
        "chat", tiny_model, "--sampling.seed", 1, input="Where is the river?\n/help\n/new\nAnd you?\n/quit\n"
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) >= 2
    assert "/new starts over" in result.stderr
    result = command("generate", tiny_model, "--prompt", "The river", "--sampling.max_tokens", 5, "--sampling.seed", 1)
    assert result.stdout.startswith("The river")
    again = command("generate", tiny_model, "--prompt", "The river", "--sampling.max_tokens", 5, "--sampling.seed", 1)
    assert again.stdout == result.stdout


def test_a_long_conversation_forgets_its_oldest_turns_and_says_so(command: RunCommand, tiny_model: Path) -> None:
    questions = "".join(f"What is said about the river number {n}?\n" for n in range(6))
    result = command("chat", tiny_model, "--sampling.max_tokens", 8, input=questions)
    assert result.returncode == 0, result.stderr
    assert "were forgotten" in result.stderr


def test_evaluate_and_doctor_print_figures(command: RunCommand, tiny_model: Path, chain: Chain, tmp_path: Path) -> None:
    result = command("evaluate", "perplexity", tiny_model, "--corpus", chain.corpus, "--output", tmp_path / "scores")
    assert result.returncode == 0, result.stderr
    assert "bits per byte" in result.stderr
    assert "±" in result.stderr
    result = command("doctor")
    assert result.returncode == 0
    assert "FLOP/s" in result.stderr


def test_a_damaged_model_is_refused(command: RunCommand, tiny_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 255
    (copy / "model.safetensors").write_bytes(data)
    result = command("generate", copy)
    assert result.returncode == 2
    assert "model.safetensors does not match its hash" in result.stderr


def test_an_output_that_holds_something_else_is_left_alone(command: RunCommand, chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    result = command("corpus", "build", "--inputs", f"[{chain.documents}]", "--output", tmp_path)
    assert result.returncode == 2
    assert "holds something else" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["letters.txt"]


def test_ctrl_c_in_a_stage_says_how_to_go_on(chain: Chain, tmp_path: Path, command: RunCommand) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    for number in range(200):
        (documents / f"{number}.txt").write_text(sentences(number, 40))
    line = [sys.executable, "-m", "fromzero", "corpus", "build", "--inputs", f"[{documents}]", "--workers", "1"]
    line += ["--output", str(tmp_path / "corpus")]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "corpus" / "unfinished.json").exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command again" in " ".join(said.split())
    result = command(*line[3:])
    assert result.returncode == 0, result.stderr
    names = {p.name for p in (tmp_path / "corpus").iterdir()}
    assert names == {"counts.json", "manifest.json", "train-00000.parquet", "validation-00000.parquet"} | (
        names & {"rejected"}
    )


def full_disk(folder: Path, size: str) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs more rights than this user has")


def test_a_full_disk_is_one_sentence_and_a_rerun_goes_on(command: RunCommand, chain: Chain, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    full_disk(small, "256k")
    try:
        arguments = [
            "pack",
            "--corpus",
            chain.corpus,
            "--tokenizer",
            chain.tokenizer_folder,
            "--output",
            small / "tokens",
        ]
        filler = small / "filler"
        filler.write_bytes(b"x" * (200 << 10))
        result = command(*arguments)
        assert result.returncode == 2, result.stderr
        assert "no space left" in " ".join(result.stderr.split())
        assert "Traceback" not in result.stderr
        filler.unlink()
        result = command(*arguments)
        assert result.returncode == 0, result.stderr
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


@pytest.fixture(scope="module")
def mixed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chinese GB18030 pages and English PDFs in nested folders, with some rubbish beside them."""
    folder = tmp_path_factory.mktemp("mixed") / "documents"
    (folder / "网页" / "更多").mkdir(parents=True)
    (folder / "papers").mkdir()
    for number in range(12):
        body = "".join(f"<p>{_CHINESE}这是第{number}页的第{line}段，今天的天气很好。</p>" for line in range(12))
        head = f"<meta charset='gb2312'><title>第{number}页</title>"
        page = f"<html><head>{head}</head><body><h1>山和河</h1>{body}</body></html>"
        (folder / "网页" / "更多" / f"{number}.html").write_bytes(page.encode("gb18030"))
    for number in range(12):
        (folder / "papers" / f"{number}.pdf").write_bytes(pdf(sentences(number, 30)))
    (folder / "papers" / "broken.pdf").write_bytes(b"%PDF-1.4 nothing more")
    (folder / "picture.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    return folder


def test_quickstart_on_a_mixed_folder(command: RunCommand, mixed_folder: Path, tmp_path: Path) -> None:
    """The whole way with the user's own documents, only with fewer steps than a person would take."""
    changes = {
        "tokenizer.vocab_size": 400,
        "base.model": {"layers": 1, "width": 32, "heads": 2, "context": 64},
        "base.train": {
            "steps": 30,
            "batch_size": 8,
            "warmup_steps": 3,
            "validate_every": 15,
            "validation_tokens": 2048,
        },
        "chat.train": {"steps": 20, "batch_size": 8, "warmup_steps": 3, "validate_every": 20},
        "chat.graded": 2,
    }
    output = tmp_path / "run"
    arguments = ["quickstart", "--input", mixed_folder, "--output", output, "--set", json.dumps(changes)]
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    assert "a model learns little from that" in result.stderr
    assert "report/report.html" in result.stderr.replace("\n", "")
    assert f"fromzero chat {output}/chat" in result.stderr.replace("\n", "")
    counts = json.loads((output / "corpus" / "counts.json").read_text())
    assert set(counts["languages"]) == {"zh", "en"}
    assert counts["kinds"]["html"]["documents"] + counts["kinds"]["pdf"]["documents"] == counts["documents"]["kept"]
    assert {entry["reason"].split(":")[0] for entry in counts["funnel"]} >= {"damaged file", "binary file, not text"}
    page = (output / "report" / "report.html").read_text(encoding="utf-8")
    assert "damaged file" in page
    assert (output / "report" / "report.md").exists()
    assert command("chat", output / "chat", input="山里有什么？\n").returncode == 0
    again = command(*arguments)
    assert again.stderr.count("up to date") == 9, again.stderr  # the corpus is looked at twice


@pytest.mark.parametrize(
    "content", [{}, {"a.xyz": b"?"}, {"a.pdf": b"%PDF-1.4 broken", "b.txt": b"\x89PNG\r\n\x1a\n\0\0"}]
)
def test_quickstart_on_a_folder_with_nothing_to_read(
    command: RunCommand, tmp_path: Path, content: dict[str, bytes]
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    result = command("quickstart", "--input", folder, "--output", tmp_path / "run")
    assert result.returncode == 2
    assert str(folder) in result.stderr.replace("\n", "")
    assert "Traceback" not in result.stderr
