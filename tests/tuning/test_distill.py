"""A small model comes to think as its teacher does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fromzero.artifact import open_artifact
from fromzero.errors import UserError
from fromzero.interop import load_model, save_model
from fromzero.model import ModelConfig, Transformer
from fromzero.model.rounding import round_model
from fromzero.parallel import ParallelConfig
from fromzero.tokenizer import TokenizerConfig, train_tokenizer
from fromzero.training import TrainConfig
from fromzero.training.metrics import read_metrics
from fromzero.tuning import ChatConfig, finetune_chat
from fromzero.tuning.distill import Distillation, DistillConfig, finetune_distill
from tests.conftest import Chain


def train(steps: int, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "batch_size": 16,
        "learning_rate": 1e-2,
        "warmup_steps": 5,
        "dtype": "float32",
        "validate_every": steps,
    }
    return TrainConfig(steps=steps, **(settings | changes))


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, conversations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("distill") / "teacher"
    finetune_chat(ChatConfig(model=tiny_model, conversations=conversations, output=output, train=train(100)))
    return output


@pytest.fixture(scope="module")
def student(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smaller, and of random weights."""
    folder, end = tmp_path_factory.mktemp("student"), chain.tokenizer.end_of_text
    model = Transformer(
        ModelConfig(layers=1, width=16, heads=2, context=64).with_vocab(chain.tokenizer.vocab_size), seed=5
    )
    save_model(model, folder, chain.tokenizer_folder, {"bos": end, "eos": end})
    return folder


def test_it_comes_to_agree(student: Path, teacher: Path, conversations: Path, tmp_path: Path) -> None:
    config = DistillConfig(
        model=student, teacher=teacher, conversations=conversations, output=tmp_path / "out", train=train(150)
    )
    made = finetune_distill(config)
    assert "teacher" in made.manifest["inputs"]
    outcome = json.loads((made.path / "run" / "outcome.json").read_text())
    assert outcome["task"] == "distill"
    changes = {change["name"].split(",")[0]: change for change in outcome["changes"]}
    agreement = changes["held-out tokens whose likeliest is the teacher's"]
    assert agreement["before"] < 0.3 < 0.8 < agreement["after"]
    assert changes["divergence from the teacher"]["after"] < changes["divergence from the teacher"]["before"] / 4
    assert changes["held-out loss"]["after"] < changes["held-out loss"]["before"] / 2
    logged = [line for line in read_metrics(made.path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert {"cross_entropy", "divergence", "agreement"} <= logged[-1].keys()
    assert load_model(made.path).config.width == 16
    assert finetune_distill(config).digest == made.digest  # up to date
    assert open_artifact(teacher, "model")  # and as it was


def test_packed_rows_micro_batches_and_the_teacher_alone(
    student: Path, teacher: Path, conversations: Path, tmp_path: Path
) -> None:
    """With alpha 0 it is chat tuning; packing and micro-batches change what is learned by rounding alone."""
    common: dict[str, Any] = {"model": student, "conversations": conversations}
    finetune_chat(ChatConfig(**common, output=tmp_path / "chat", train=train(4)))
    common["teacher"] = teacher
    finetune_distill(DistillConfig(**common, alpha=0.0, output=tmp_path / "zero", train=train(4)))
    _assert_close(tmp_path / "chat", tmp_path / "zero")
    finetune_distill(DistillConfig(**common, output=tmp_path / "whole", train=train(4)))
    finetune_distill(DistillConfig(**common, output=tmp_path / "cut", train=train(4, micro_batch_size=4)))
    _assert_close(tmp_path / "whole", tmp_path / "cut")
    packed = finetune_distill(DistillConfig(**common, packing="packed", output=tmp_path / "p", train=train(4)))
    assert packed.summary["loss"] > 0


def _assert_close(first: Path, second: Path) -> None:
    for ours, theirs in zip(load_model(first).parameters(), load_model(second).parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_teacher_in_few_bits_or_bfloat16(student: Path, teacher: Path, tmp_path: Path) -> None:
    """It says nearly the same, and no gradient reaches it."""
    config = DistillConfig(model=student, teacher=teacher, conversations=tmp_path, output=tmp_path, alpha=1.0)
    ids_BT, model = torch.arange(40).view(2, 20), load_model(student)
    plain, rounded = load_model(teacher), load_model(teacher)
    round_model(rounded, "int8")
    narrow = load_model(teacher, torch.bfloat16, torch.bfloat16)
    losses = []
    for one in (plain, rounded, narrow):
        objective = Distillation(config, model, one.requires_grad_(False))
        loss = objective(ids_BT=ids_BT, targets_BT=ids_BT)
        loss.backward()
        assert all(parameter.grad is None for parameter in one.parameters())
        assert not any(parameter is own for parameter in objective.parameters() for own in one.parameters())
        losses.append(float(loss))
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=0.02)


def test_another_tokenizer_and_impossible_settings(
    chain: Chain, student: Path, teacher: Path, conversations: Path, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"model": student, "conversations": conversations, "output": tmp_path / "out"}
    for wrong in ({"alpha": 1.5}, {"temperature": 0.0}):
        with pytest.raises(UserError, match="alpha"):
            DistillConfig(**common, teacher=teacher, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="whole rows"):
        DistillConfig(**common, teacher=teacher, parallel=ParallelConfig(context=2))
    (other := tmp_path / "other").mkdir()
    train_tokenizer(TokenizerConfig(corpus=chain.corpus, output=tmp_path / "tokenizer", vocab_size=310))
    model, end = Transformer(ModelConfig(layers=1, width=16, heads=2, context=64).with_vocab(310)), 0
    save_model(model, other, tmp_path / "tokenizer", {"bos": end, "eos": end})
    with pytest.raises(UserError, match="another tokenizer"):
        finetune_distill(DistillConfig(**common, teacher=other))
