"""Files of prompts: the answers that each prompt gets alone, in order; what was cut off goes on; mistakes by line."""

import json
from pathlib import Path
from typing import Any

import pytest

from fromzero.commands import main
from fromzero.inference import SamplingConfig, generate_text
from fromzero.inference.beam import BeamConfig, search_answers
from fromzero.interop import load_model
from fromzero.interop.huggingface import save_model
from fromzero.model import EncoderDecoder, ModelConfig
from fromzero.tuning.grading import prompt_ids
from tests.conftest import Chain

PROMPTS = ["The river", "The mountain near", "A cloud", "Nobody saw", "", "The window", "The silver", "The garden is"]
GREEDY = ["--temperature", "0", "--max_tokens", "9"]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def generate(*arguments: object) -> int:
    return main(["generate", *map(str, arguments)])


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": text, "id": n}) + "\n" for n, text in enumerate(PROMPTS)))
    return file


def test_answers_are_those_of_each_prompt_alone_in_order(
    served_model: Path, chain: Chain, prompts: Path, tmp_path: Path
) -> None:
    with prompts.open("a") as file:
        file.write('\n{"messages": [{"role": "user", "content": "Where?"}], "id": 8}\n')
    assert generate(served_model, "--input", prompts, "--output", tmp_path / "out", "--engine.queued", 3, *GREEDY) == 0
    model, tokenizer = load_model(served_model).eval(), chain.tokenizer
    found, config = rows(tmp_path / "out"), SamplingConfig(temperature=0, max_tokens=9)
    assert [row["id"] for row in found] == list(range(9))
    for row, text in zip(found, PROMPTS, strict=False):
        ids = [tokenizer.end_of_text, *tokenizer.encode_ordinary(text)]
        assert row["prompt"] == text
        assert row["answers"][0]["text"] == generate_text(model, tokenizer, ids, config, goes_on=bool(text)).text()
    alone = generate_text(model, tokenizer, prompt_ids(tokenizer, [{"role": "user", "content": "Where?"}]), config)
    assert found[8]["answers"][0]["text"] == alone.text()


def test_what_was_cut_off_goes_on(
    served_model: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = ("--input", prompts, "--seed", 5, "--max_tokens", 6, "--n", 2)
    assert generate(served_model, *settings, "--output", whole) == 0
    lines = whole.read_bytes().splitlines(keepends=True)
    kept = lines[0].replace(b'"text": "', b'"text": "kept, not computed again: ', 1)
    cut.write_bytes(kept + lines[1] + lines[2][:40])
    assert generate(served_model, *settings, "--output", cut) == 0
    assert cut.read_bytes() == kept + b"".join(lines[1:])
    assert generate(served_model, *settings, "--output", cut) == 0  # nothing is left to do
    assert cut.read_bytes() == kept + b"".join(lines[1:])
    assert generate(served_model, *settings, "--top_p", 0.5, "--output", cut) == 2  # an option that there is not
    assert generate(served_model, *settings, "--sampling.top_p", 0.5, "--output", cut) == 2
    prompts.write_text('{"prompt": "other"}\n')
    assert generate(served_model, *settings, "--output", cut) == 2
    assert "line 1 is no answer to that prompt with these settings" in " ".join(capsys.readouterr().err.split())
    assert cut.read_bytes() == kept + b"".join(lines[1:])


def test_several_answers_stops_and_probabilities(served_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--prompt", "The river", "--seed", 3, "--max_tokens", 12, "--logprobs", 2, "--n", 3)
    assert generate(served_model, *settings) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert len({answer["text"] for answer in answers}) == 3
    for answer in answers:
        noted = answer["logprobs"]
        joined = "".join(noted["tokens"])  # a character that is spread over tokens shows in none of them
        assert [c for c in joined if c.isascii()] == [c for c in answer["text"] if c.isascii()]
        assert len(noted["logprobs"]) == answer["tokens"]
        assert all(len(top) == 2 and top[0][1] >= top[1][1] for top in noted["top"])
    letters = sorted(c for c in set(answers[0]["text"]) if c.isascii() and c.isprintable() and c != " ")[:2]
    assert generate(served_model, *settings, "--stop", *letters) == 0
    stopped = json.loads(capsys.readouterr().out)["answers"][0]
    assert stopped["reason"] == "stop"
    assert not set(letters) & set(stopped["text"])


def test_beams_are_those_of_the_search(served_model: Path, chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(served_model, "--prompt", "The river", "--beams", 3, "--n", 2, "--max_tokens", 6) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    tokenizer = chain.tokenizer
    ends = frozenset(i for i in tokenizer.special_tokens.values() if i != tokenizer.unknown_id)
    ids = [tokenizer.end_of_text, *tokenizer.encode_ordinary("The river")]
    found = search_answers(load_model(served_model).eval(), ids, BeamConfig(3, 2, 6), ends)
    assert [(a["text"], a["score"]) for a in answers] == [(tokenizer.decode(a.tokens), a.score) for a in found]


def test_an_encoder_decoder_reads_the_prompt(chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig(kind="encoder_decoder", layers=1, width=32, heads=2, context=64, encoder_layers=1)
    model = EncoderDecoder(config.with_vocab(chain.tokenizer.vocab_size), seed=4).eval()
    start = chain.tokenizer.end_of_text
    save_model(model, tmp_path, chain.tokenizer_folder, {"decoder_start": start})
    answers = []
    for extra in ((), ("--beams", 1, "--output", tmp_path / "out")):
        assert generate(tmp_path, "--prompt", "The river", *GREEDY, *extra) == 0
        answers.append(capsys.readouterr().out.removesuffix("\n"))
    ends = frozenset(chain.tokenizer.special_tokens.values())
    source = chain.tokenizer.encode("The river")
    (found,) = search_answers(model, [start], BeamConfig(1, 1, 9, stop="full"), ends, source)
    assert answers[0] == chain.tokenizer.decode(found.tokens)
    assert rows(tmp_path / "out")[0]["answers"][0]["text"] == answers[0]


def test_rules(served_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"],'
                      ' "additionalProperties": false}')  # fmt: skip
    assert generate(served_model, "--prompt", "Which?", "--choices", "yes", "no") == 0
    assert capsys.readouterr().out in ("Which?yes\n", "Which?no\n")
    assert generate(served_model, "--prompt", "A", "--regex", "[0-9]{3}") == 0
    assert capsys.readouterr().out[1:].strip().isdigit()
    assert generate(served_model, "--prompt", "A", "--json_schema", schema, "--n", 2) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert all(json.loads(answer["text"])["n"] in (1, 2) for answer in answers)


def test_a_prompt_that_can_not_be_answered_has_its_reason(
    served_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("The river\n" + "too long " * 2000 + "\nThe cloud\n")
    assert generate(served_model, "--input", file, "--output", tmp_path / "out", *GREEDY) == 0
    found = rows(tmp_path / "out")
    assert "the model's context is 1024" in found[1]["error"]
    assert [row["answers"][0]["reason"] in ("length", "stop") for row in (found[0], found[2])] == [True, True]
    assert "1 of 3 prompts could not be answered" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"}\n{"prompt": \n', "line 2 is no JSON"),
        (b'{"prompt": "a"}\n\n{"words": "b"}\n', 'line 3 should have a "prompt" that is a text, or "messages"'),
        (b'{"prompt": 3}\n', 'line 1 should have a "prompt"'),
        (b'{"prompt": "a"}\n' + b"[" * 100_000, "line 2 is no JSON"),
        (b"\xff\xfe bad", "is not in UTF-8"),
        (None, "No such file"),
    ],
)
def test_files_that_hold_no_prompts(
    content: bytes | None, message: str, served_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts"
    if content is not None:
        file.write_bytes(content)
    assert generate(served_model, "--input", file, "--output", tmp_path / "out") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert str(file) in said.replace(" ", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beams", "2", "--regex", "a"], "one of json_schema, regex, choices and beams at a time"),
        (["--prompt", "a", "--input", "b"], "give --prompt or --input, not both"),
        (["--beams", "2", "--stop", "a"], "beams without stop and logprobs"),
    ],
)
def test_settings_that_exclude_each_other(
    arguments: list[str], message: str, served_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(served_model, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
