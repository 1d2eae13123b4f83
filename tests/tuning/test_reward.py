"""Reward models: the loss by hand and as in TRL, a model that learns to tell answers apart, and what it scores."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from trl.trainer.reward_trainer import RewardTrainer

from fromzero.errors import UserError
from fromzero.evaluation.tasks import Task
from fromzero.interop import load_model, save_model
from fromzero.model import ModelConfig, Transformer
from fromzero.parallel import ParallelConfig
from fromzero.training import TrainConfig
from fromzero.tuning.preference import PreferenceConfig, align_preferences
from fromzero.tuning.reward import RewardConfig, RewardModel, align_reward, reward_loss, scores
from fromzero.tuning.sequences import Rows, deal
from tests.conftest import Chain
from tests.parallel.ranks import run_ranks
from tests.tuning.samples import asked, said


def test_loss_by_hand_and_as_in_trl() -> None:
    scores_P2, margin_P = torch.tensor([[1.0, -0.5], [0.2, 0.4]]), torch.tensor([0.5, 0.0])
    by_hand = [0.3132617, 0.7981389]  # -log sigma(1), -log sigma(-0.2)
    torch.testing.assert_close(reward_loss(scores_P2, margin_P), torch.tensor(by_hand), atol=1e-6, rtol=0)
    centred = torch.tensor([by_hand[0] + 0.1 * 0.25, by_hand[1] + 0.1 * 0.36])
    torch.testing.assert_close(reward_loss(scores_P2, margin_P, 0.1), centred, atol=1e-6, rtol=0)

    def theirs(**_: Any) -> Any:
        return SimpleNamespace(logits=scores_P2.T.reshape(4, 1))

    trainer: Any = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=0.1),
        accelerator=SimpleNamespace(gather=lambda t: t, gather_for_metrics=lambda t: t),
        _metrics={"eval": {n: [] for n in ("min_reward", "mean_reward", "max_reward", "accuracy", "margin")}},
        _total_train_tokens=0,
        _tp_size=1,
    )
    loss = RewardTrainer.compute_loss(trainer, theirs, {"margin": margin_P})
    torch.testing.assert_close(reward_loss(scores_P2, margin_P, 0.1).mean(), loss, atol=1e-6, rtol=1e-6)


@pytest.fixture(scope="module")
def reward_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    records = [
        {"instruction": f"Where is story {n}?", "chosen": "Near the river.", "rejected": f"In room {n}."}
        for n in range(150)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    train = TrainConfig(steps=25, batch_size=8, learning_rate=3e-3, warmup_steps=2, dtype="float32")
    align_reward(
        RewardConfig(model=tiny_model, preferences=folder / "pairs.jsonl", output=folder / "model", train=train)
    )
    return folder / "model"


def test_it_learns_to_tell_answers_apart(reward_folder: Path) -> None:
    outcome = json.loads((reward_folder / "run" / "outcome.json").read_text())
    (change,) = outcome["changes"]
    assert change["after"] > 0.85
    assert change["count"] > 0
    assert "align ppo --reward FOLDER" in (reward_folder / "MODEL_CARD.md").read_text()
    model = RewardModel.open(reward_folder)
    tasks = [Task("Where is story 999?")] * 2
    better, worse = model(tasks, ["Near the river.", "In room 77."])
    assert better > worse
    found = model.score([asked("Where is story 999?")], [said("Near the river.")])
    assert found == pytest.approx([better], abs=1e-5)


def test_scores_are_of_the_token_that_ends_the_answer_whatever_the_padding(reward_folder: Path) -> None:
    model = RewardModel.open(reward_folder)
    short = model.encoder(asked("Where?"), said("Near the river."))
    long = model.encoder(asked("Where is story 5?"), said("In room 5. " * 5))
    assert short.ids_T[-1] == model.encoder.tokenizer.special_tokens["<|im_end|>"]
    alone, both = (deal(Rows(rows, {}), torch.arange(len(rows)).numpy()) for rows in ([(short,)], [(short,), (long,)]))
    first, second = (scores(model.model, batch["ids_BT"], batch["targets_BT"]) for batch in (alone, both))
    torch.testing.assert_close(first[0], second[0])
    assert model.model.classifier is not None
    x = model.model.hidden(torch.from_numpy(short.ids_T)[None])[0, -1]
    torch.testing.assert_close(first.flatten(), F.linear(x, model.model.classifier.weight))


def test_other_models_are_refused(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="retain"):
        RewardConfig(model=tiny_model, preferences=tiny_model, output=tiny_model, retain=tiny_model)
    with pytest.raises(UserError, match=r"parallel\.context"):
        RewardConfig(model=tiny_model, preferences=tiny_model, output=tiny_model, parallel=ParallelConfig(context=2))
    with pytest.raises(UserError, match="no reward model"):
        RewardModel.open(tiny_model)


def _shared(config: RewardConfig | PreferenceConfig) -> None:
    os.environ |= {"RANK": str(torch.distributed.get_rank()), "WORLD_SIZE": "2"}  # as torchrun sets it
    (align_reward if isinstance(config, RewardConfig) else align_preferences)(config)  # type: ignore[arg-type]


def test_ranks_share_what_has_parts_that_are_not_learned(chain: Chain, tmp_path: Path) -> None:
    """No score depends on an output matrix of its own, and no preference on what predicts further tokens."""
    shape = ModelConfig(layers=1, width=16, heads=2, context=64, tied=False, predict_ahead=1)
    model = Transformer(shape.with_vocab(chain.tokenizer.vocab_size), seed=5)
    end = chain.tokenizer.end_of_text
    (folder := tmp_path / "model").mkdir()
    save_model(model, folder, chain.tokenizer_folder, {"bos": end, "eos": end})
    pairs = [{"prompt": f"Story {n}?", "chosen": "Near the river.", "rejected": "In a room."} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    train = TrainConfig(steps=3, batch_size=4, learning_rate=1e-3, warmup_steps=1, dtype="float32")
    given: dict[str, Any] = {"model": folder, "preferences": tmp_path / "pairs.jsonl", "train": train}
    run_ranks(2, _shared, RewardConfig(**given, output=tmp_path / "reward"))
    run_ranks(2, _shared, PreferenceConfig(**given, output=tmp_path / "preference", max_tokens=8))
    tuned = load_model(tmp_path / "preference")
    assert not torch.equal(tuned.head_weight, model.head_weight)
    before, after = (dict(one.ahead.named_parameters()) for one in (model, tuned))
    assert before
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert RewardModel.open(tmp_path / "reward").model.config == tuned.config


def test_texts_are_encoded_by_the_reward_models_own_tokenizer(reward_folder: Path, tmp_path: Path) -> None:
    """A policy whose template and tokenizer are others changes nothing: it hands over texts."""
    own = RewardModel.open(reward_folder)
    settings = json.loads((reward_folder / "tokenizer_config.json").read_text())
    other = tmp_path / "other"
    shutil.copytree(reward_folder, other)
    settings["chat_template"] = settings["chat_template"].replace("<|im_start|>", "<|reserved_0|>")
    (other / "tokenizer_config.json").write_text(json.dumps(settings))
    (other / "manifest.json").unlink()
    moved = RewardModel.open(other)
    prompt, answer = asked("Where?"), said("Near the river.")
    assert moved.encoder(prompt, answer).ids_T[0] == own.encoder.tokenizer.special_tokens["<|reserved_0|>"]
    assert own.encoder(prompt, answer).ids_T[0] == own.encoder.tokenizer.special_tokens["<|im_start|>"]
    assert own.score([prompt], [answer]) != moved.score([prompt], [answer])
