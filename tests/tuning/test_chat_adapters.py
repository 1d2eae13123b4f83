"""Chat tuning with adapters, in few bits, packed, with noise: what is written, that it resumes exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fromzero.errors import UserError
from fromzero.inference.opening import open_engine
from fromzero.interop import load_model
from fromzero.interop.adapters import FOLDER, WEIGHTS
from fromzero.model import ModelConfig, Transformer
from fromzero.model.adapters import AdapterConfig, adapters
from fromzero.model.quantized import quantized
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.chat import ChatTemplate
from fromzero.training import TrainConfig
from fromzero.tuning import ChatConfig, chat, finetune_chat
from fromzero.tuning.grading import end_of_turn
from fromzero.tuning.noise import NoisyNextToken, noise

LORA = AdapterConfig(rank=4, alpha=8)


def config(model: Path, conversations: Path, output: Path, **settings: Any) -> ChatConfig:
    steps = settings.pop("steps", 10)
    train = TrainConfig(
        steps=steps, batch_size=8, learning_rate=1e-2, warmup_steps=2, validate_every=5, checkpoint_every=5,
        dtype="float32", **settings.pop("train", {}),
    )  # fmt: skip
    return ChatConfig(model=model, conversations=conversations, output=output, train=train, graded=2, **settings)


def test_a_merged_model_has_learned_in_its_adapters_only(tiny_model: Path, conversations: Path, tmp_path: Path) -> None:
    settings = config(tiny_model, conversations, tmp_path / "chat", adapters=LORA, steps=40, packing="packed")
    made = finetune_chat(settings)
    before, after = load_model(tiny_model).state_dict(), load_model(made.path).state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        adapted = any(f".{part}." in name for part in ("attention", "feed_forward")) and "norm" not in name
        assert torch.equal(tensor, after[name]) != adapted, name
    outcome = json.loads((made.path / "run" / "outcome.json").read_text())
    change = outcome["changes"][0]
    assert change["name"].startswith("held-out loss")
    assert change["after"] < 0.8 * change["before"]
    assert {c["name"] for c in outcome["changes"]} >= {"right answers: room"}
    assert outcome["examples"][0]["right_after"] in (True, False)


def test_few_bits_are_kept_apart(tiny_model: Path, conversations: Path, tmp_path: Path) -> None:
    settings = config(tiny_model, conversations, tmp_path / "chat", adapters=LORA, quantize="int4", steps=30)
    made = finetune_chat(settings)
    assert not (made.path / "model.safetensors").exists()
    layers = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    names = (f"base_model.model.model.layers.0.{layer}.lora_{side}.weight" for layer in layers for side in "AB")
    assert set(load_file(made.path / FOLDER / WEIGHTS)) == set(names)
    opened = load_model(made.path)
    assert next(quantized(opened), None)
    assert len(list(adapters(opened))) == 7
    change = json.loads((made.path / "run" / "outcome.json").read_text())["changes"][0]
    assert change["after"] < 0.9 * change["before"]
    with pytest.raises(UserError, match="adapters on weights in few bits"):
        finetune_chat(config(made.path, conversations, tmp_path / "more", adapters=LORA))
    assert open_engine(made.path).tokenizer.tokens


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_resumed_with_noise_is_exact(
    tiny_model: Path, conversations: Path, tmp_path: Path, packing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"packing": packing, "noise": 5.0, "keep": "apart"}
    how["adapters"] = AdapterConfig(rank=4, alpha=8, dropout=0.1, decomposed=True)
    straight = finetune_chat(config(tiny_model, conversations, tmp_path / "straight", **how))
    measure, calls = chat.held_out_loss, iter(range(100))

    def fail(*given: Any) -> float:
        if next(calls) == 2:  # the look at step 10
            raise RuntimeError("cut off")
        return measure(*given)

    monkeypatch.setattr(chat, "held_out_loss", fail)
    with pytest.raises(RuntimeError, match="cut off"):
        finetune_chat(config(tiny_model, conversations, tmp_path / "cut", **how))
    kept = tmp_path / "cut" / "run" / "checkpoints" / "step-00000005"
    assert sum(file.stat().st_size for file in kept.iterdir()) < 200_000  # adapters and what the optimizer has of them
    monkeypatch.undo()
    resumed = finetune_chat(config(tiny_model, conversations, tmp_path / "cut", **how))
    ours, theirs = (load_file(made.path / FOLDER / WEIGHTS) for made in (resumed, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (resumed.path / "run" / "answers.json").read_text() == (straight.path / "run" / "answers.json").read_text()


def test_noise_is_that_of_a_row_whoever_computes_it() -> None:
    model = Transformer(ModelConfig(layers=1, width=32, heads=2, context=16, vocab_size=20), seed=1)
    ids = torch.arange(24).view(4, 6) % 20
    objective = NoisyNextToken(model, 5.0, seed=3)
    batch = dict(objective.complete({"ids_BT": ids, "targets_BT": ids}, step=7))
    whole = objective(**batch)
    parts = sum(objective(**{name: tensor[rows] for name, tensor in batch.items()}) for rows in (slice(1), slice(1, 4)))
    torch.testing.assert_close(whole, parts)
    objective.rank, objective.ranks = 1, 2
    dealt = objective.complete({"ids_BT": ids[1::2], "targets_BT": ids[1::2]}, step=7)
    assert torch.equal(dealt["seed_B"], batch["seed_B"][1::2])
    assert not torch.equal(objective.complete({"ids_BT": ids[1::2]}, step=8)["seed_B"], dealt["seed_B"])
    quiet = NoisyNextToken(model, 0.0, seed=3)(ids_BT=ids, targets_BT=ids)
    assert not torch.equal(whole, quiet)
    assert torch.equal(objective.eval()(**batch), quiet)
    found = noise(batch["seed_B"], 6, 32, 5.0)
    assert found.abs().max() <= 5 / (6 * 32) ** 0.5
    assert found.std() == pytest.approx(5 / (6 * 32) ** 0.5 / 3**0.5, rel=0.05)


def test_noise_beside_what_predicts_further_tokens() -> None:
    config = ModelConfig(layers=1, width=32, heads=2, context=16, vocab_size=20, predict_ahead=1)
    ids = torch.arange(24).view(4, 6) % 20
    losses = []
    for weight in (0.1, 0.5):
        objective = NoisyNextToken(Transformer(config, seed=1), 5.0, 3, weight)
        batch = objective.complete(objective.prepare(ids[:, :-1], ids[:, 1:], step=0), step=0)
        losses.append(objective(**batch).item())
    assert losses[1] > losses[0] * 1.1


def test_the_end_of_a_turn_is_that_of_the_template(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    assert end_of_turn(tokenizer) == "<|im_end|>"
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|endoftext|>' }}{% endfor %}"
    plain += "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer.chat_template = ChatTemplate(plain)
    assert end_of_turn(tokenizer) == "<|endoftext|>"
    tokenizer.chat_template = ChatTemplate(plain.replace("<|endoftext|>", "!"))
    assert end_of_turn(tokenizer) is None
    tokenizer.chat_template = None
    assert end_of_turn(tokenizer) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantize": "int4"}, "are for adapters"),
        ({"keep": "apart"}, "are for adapters"),
        ({"noise": -1.0}, "must be 0 or more"),
        ({"context": 1}, "must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(tmp_path, tmp_path, tmp_path, **settings)
