"""Instruction tuning on a real tiny model: what carries loss, that it learns, and that it is a model like any other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fromzero.artifact import open_artifact
from fromzero.errors import UserError
from fromzero.interop import load_model
from fromzero.tokenizer import load_tokenizer
from fromzero.training import TrainConfig
from fromzero.training.metrics import read_metrics
from fromzero.training.objective import counted, next_token_loss
from fromzero.tuning import ChatConfig, finetune_chat
from fromzero.tuning.grading import ask, prompt_ids

MESSAGES = [{"role": "user", "content": "Where is story 3?"}, {"role": "assistant", "content": "Story 3 is in room 0."}]


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, conversations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tuned") / "chat"
    train = TrainConfig(
        steps=120, batch_size=16, learning_rate=1e-2, warmup_steps=5, validate_every=60, dtype="float32"
    )
    finetune_chat(ChatConfig(model=tiny_model, conversations=conversations, output=output, train=train))
    return output


def test_loss_is_on_the_answer_and_its_end_only(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    assert tokenizer.chat_template is not None
    ids, mask = tokenizer.chat_template.encode_chat(tokenizer, MESSAGES)
    answer = [*tokenizer.encode_ordinary("Story 3 is in room 0."), tokenizer.special_tokens["<|im_end|>"]]
    assert [i for i, on in zip(ids, mask, strict=True) if on] == answer
    row = torch.tensor(ids)
    targets = torch.where(torch.tensor(mask), row, -100)[None, 1:]
    assert counted(targets) == len(answer)
    model = load_model(tiny_model)
    loss = next_token_loss(model, row[None, :-1], targets)
    log_p = model(row[None, :-1])[0].log_softmax(-1)
    by_hand = -sum(log_p[position - 1, ids[position]] for position, on in enumerate(mask) if on)
    torch.testing.assert_close(loss, by_hand)


def test_it_learns_to_answer_and_to_stop(tuned: Path) -> None:
    model, tokenizer = load_model(tuned), load_tokenizer(tuned)
    answer = ask(model, tokenizer, MESSAGES[:1])
    assert answer.startswith("Story")
    assert "is in room" in answer
    assert "<|im_" not in answer
    summary = open_artifact(tuned, "model").summary
    assert summary["conversations"]["train"]["documents"] == 60
    assert "`fromzero chat FOLDER`" in (tuned / "MODEL_CARD.md").read_text()
    assert summary["loss"] < 0.5


def test_answers_before_and_after_are_graded(tuned: Path) -> None:
    answers = json.loads((tuned / "run" / "answers.json").read_text())
    assert answers["graded"]["room"]["questions"] == 10
    assert answers["graded"]["room"]["right_after"] >= answers["graded"]["room"]["right_before"]
    example = answers["examples"][0]
    assert example["expected"].startswith("Story 6")
    assert example["after"].startswith("Story")
    assert example["before"] != example["after"]


def test_transformers_makes_the_same_prompt_and_the_same_answer(tuned: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.float32)
    encoded = tokenizer.apply_chat_template(
        MESSAGES[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ours = load_tokenizer(tuned)
    assert encoded["input_ids"][0].tolist() == prompt_ids(ours, MESSAGES[:1])
    output = theirs.generate(**encoded, do_sample=False, max_new_tokens=64)
    text = tokenizer.decode(output[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text.strip() == ask(load_model(tuned), ours, MESSAGES[:1])


def test_bad_conversations_name_the_line(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(
        json.dumps({"messages": MESSAGES}) + "\n" + json.dumps({"messages": [{"role": "usr", "content": ""}]})
    )
    with pytest.raises(UserError, match=r"mine\.jsonl line 2"):
        finetune_chat(ChatConfig(model=tiny_model, conversations=file, output=tmp_path / "chat"))
    with pytest.raises(UserError, match="there is no file to read"):
        finetune_chat(ChatConfig(model=tiny_model, conversations=tmp_path / "none", output=tmp_path / "chat2"))


def test_a_single_file_of_conversations_is_split(tiny_model: Path, conversations: Path, tmp_path: Path) -> None:
    train = TrainConfig(steps=3, batch_size=4, warmup_steps=1, dtype="float32", validate_every=1)
    file, known = tmp_path / "mine.jsonl", tmp_path / "known.txt"
    known.write_text("The river near the cloud is quiet.")
    empty = json.dumps({"messages": [MESSAGES[0], {**MESSAGES[1], "content": ""}]})
    file.write_text((conversations / "train.jsonl").read_text().replace("\n", "\n\n") + empty)
    given: dict[str, Any] = {"model": tiny_model, "conversations": file, "train": train, "retain": known}
    made = finetune_chat(ChatConfig(**given, output=tmp_path / "chat"))
    looks = [line for line in read_metrics(made.path / "run" / "metrics.jsonl") if line["kind"] == "look"]
    assert ["retained_loss" in look for look in looks] == [True] * 4
    splits = made.summary["conversations"]
    assert splits["train"]["documents"] + splits["validation"]["documents"] == 60
    notes = json.loads((tmp_path / "chat" / "run" / "outcome.json").read_text())["notes"]
    assert "1 records were dropped: empty answer" in notes
    answers = json.loads((tmp_path / "chat" / "run" / "answers.json").read_text())
    assert len(answers["examples"]) == splits["validation"]["documents"]  # what was learned from is not asked


@pytest.mark.parametrize("setting", [{"tokens": 10}, {"batch_size_start": 4}, {"parametrization": "mup"}])
def test_settings_of_pretraining_are_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        ChatConfig(model=tmp_path, conversations=tmp_path, output=tmp_path, train=TrainConfig(**setting))
