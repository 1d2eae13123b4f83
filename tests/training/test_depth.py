"""One dial: what a depth makes of the settings, and that a run with it trains."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from fromzero.artifact import open_artifact
from fromzero.commands import main
from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.training import TrainConfig
from fromzero.training.depth import dial, horizon, timescale
from fromzero.training.metrics import read_metrics
from fromzero.training.schedule import in_steps
from tests.conftest import Chain

VOCAB = 32768


def test_a_depth_of_twelve_is_gpt_2s_shape_with_deepseeks_laws() -> None:
    model, train = dial(ModelConfig(depth=12, context=1024), TrainConfig(), VOCAB)
    assert (model.depth, model.layers, model.width, model.heads) == (0, 12, 768, 12)
    with torch.device("meta"):
        built = Transformer(model.with_vocab(VOCAB))
    assert train.tokens == 20 * built.parameter_count()
    flops = built.flops_per_token() * train.tokens
    assert 0.7 < train.batch_size * 1024 / (0.2920 * flops**0.3271) < 1.42  # to a power of two
    assert train.batch_size.bit_count() == 1
    assert train.learning_rate == pytest.approx(0.3118 * flops**-0.1250, rel=0.01)
    assert train.weight_decay == 0.1
    assert train.warmup_steps == min(2000, in_steps(train, 1024).steps // 20)
    assert train.micro_batch_size == 16


def test_deeper_is_wider_longer_and_gentler() -> None:
    each = [dial(ModelConfig(depth=depth), TrainConfig(), VOCAB) for depth in (2, 4, 8, 16, 24)]
    assert [model.heads * model.head_size == model.width == 64 * model.layers for model, _ in each] == [True] * 5
    assert [model.head_size for model, _ in each] == [64, 64, 64, 128, 128]
    for (_, a), (_, b) in pairwise(each):
        assert (a.tokens or 0) < (b.tokens or 0)
        assert a.batch_size < b.batch_size
        assert a.learning_rate > b.learning_rate
    products = [train.weight_decay * timescale(*horizon(model, VOCAB)) for model, train in each]
    assert products == pytest.approx([products[0]] * 5, rel=0.01)


def test_what_was_asked_for_stays() -> None:
    asked = TrainConfig(steps=7, batch_size=6, learning_rate=0.5, weight_decay=0.2, warmup_steps=3, micro_batch_size=2)
    shape = ModelConfig(depth=4, width=192, heads=6)
    model, train = dial(shape, asked, VOCAB)
    assert train == asked
    assert (model.layers, model.width, model.heads) == (4, 192, 6)
    assert dial(ModelConfig(), TrainConfig(), VOCAB) == (ModelConfig(), TrainConfig())
    _, short = dial(ModelConfig(depth=4), TrainConfig(tokens=10**6), VOCAB)
    _, full = dial(ModelConfig(depth=4), TrainConfig(), VOCAB)
    assert short.tokens == 10**6
    assert short.batch_size < full.batch_size
    assert short.learning_rate > full.learning_rate
    for other in (TrainConfig(optimizer="lion"), TrainConfig(parametrization="mup")):
        kept = dial(ModelConfig(depth=4), other, VOCAB)[1]
        assert (kept.learning_rate, kept.weight_decay) == (other.learning_rate, other.weight_decay)
    with pytest.raises(UserError, match=r"model\.depth"):
        replace(shape, depth=-1)
    with pytest.raises(UserError, match=r"model\.depth"):
        Transformer(ModelConfig(depth=2, vocab_size=8))


def test_one_number_on_the_command_line_trains(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = "--model.depth 1 --model.context 32 --train.tokens 8192 --train.device cpu --sample_points 0"
    arguments = ["pretrain", *settings.split(), "--tokens", str(chain.tokens), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--print_schedule"]) == 0
    assert "1 layers, width 64, 1 heads" in capsys.readouterr().err
    assert main(arguments) == 0
    made = open_artifact(tmp_path / "out", "model")
    saved = made.manifest["config"]
    assert [saved["model"][name] for name in ("depth", "layers", "width")] == [0, 1, 64]
    assert 4096 < saved["train"]["steps"] * saved["train"]["batch_size"] * 32 <= 8192
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_size"] == 64
    losses = [
        line["loss"] for line in read_metrics(tmp_path / "out" / "run" / "metrics.jsonl") if line["kind"] == "train"
    ]
    assert losses[-1] < losses[0]
    capsys.readouterr()
    assert main(arguments) == 0
    assert "up to date" in capsys.readouterr().err
