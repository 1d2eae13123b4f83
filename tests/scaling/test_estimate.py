from pathlib import Path

import pytest

from fromzero.commands import main
from fromzero.errors import UserError
from fromzero.model import ModelConfig
from fromzero.scaling import EstimateConfig, estimate


def test_the_figures_of_llama2_7b_by_hand() -> None:
    found = estimate(EstimateConfig("llama2-7b", batch_size=1, devices=8))
    parameters, matrices = 6_738_415_616, 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    assert found["parameters"] == found["active for each token"] == parameters
    assert found["without embeddings"] == parameters - 32000 * 4096
    assert found["FLOPs per token, training"] == pytest.approx(6 * matrices + 6 * 32 * 2 * 4096 * 4096 / 2, rel=0.001)
    assert found["FLOPs per token, forward"] * 3 == found["FLOPs per token, training"]
    assert found["training bytes a device, optimizer"] == parameters
    kept = 2 * 32 * 4096 * (4 * 4096 + 4 * 4096 + 4 * 11008)
    assert found["training bytes a device, activations"] == kept
    assert found["training bytes a device, sum"] == parameters * 18 / 8 + kept
    assert found["serving bytes, weights in bf16"] == 2 * parameters
    assert found["serving bytes, weights in q4_0"] == 4.5 / 8 * parameters
    assert found["cache bytes per token, bf16"] == 32 * 2 * 4096 * 2 == 524_288
    assert found["cache bytes at full context"] == 4096 * 524_288


@pytest.mark.parametrize(
    ("name", "per_token"),
    [("llama3-8b", 131_072), ("deepseek-v2-lite", 27 * (512 + 64) * 2), ("qwen3-30b-a3b", 48 * 2 * 4 * 128 * 2)],
)
def test_the_cache_of_a_token(name: str, per_token: int) -> None:
    assert estimate(EstimateConfig(name))["cache bytes per token, bf16"] == per_token


def test_encoders_have_no_cache_and_mixtures_fewer_active_parameters() -> None:
    assert not any("cache" in name for name in estimate(EstimateConfig("bert-base")))
    found = estimate(EstimateConfig("qwen3-30b-a3b"))
    assert found["active for each token"] == pytest.approx(3.35e9, rel=0.01)
    assert found["FLOPs per token, forward"] < 2.1 * 3.35e9 + 48 * 2 * 32 * 128 * 40960


def test_of_a_folder_or_of_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate(EstimateConfig(model=ModelConfig(vocab_size=100)))["parameters"] > 1e6
    assert main(["estimate", "--model.vocab_size", "512", "--model.layers", "2"]) == 0
    assert "parameters" in capsys.readouterr().err
    for name, message in (("llama2-7", "did you mean 'llama2-7b'"), (str(tmp_path), "config.json")):
        with pytest.raises(UserError, match=message):
            estimate(EstimateConfig(name))
    with pytest.raises(UserError, match="not both"):
        EstimateConfig("gpt2-124m", ModelConfig(layers=2))
    with pytest.raises(UserError, match="at least 1"):
        EstimateConfig(devices=0)
    assert main(["estimate", "--model.preset", "gpt2-124m", "--model.vocab_size", "50257"]) == 0
    assert "124,439,808" in capsys.readouterr().err


def test_a_recipe_on_named_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["estimate", "--recipe", "gpt2-124m", "--stage", "base", "--hardware", "h100x8", "--price", "2.5"]
    assert main(asked) == 0
    said = capsys.readouterr().err
    assert "gpt2-124m on h100x8" in said
    assert all(name in said for name in ("device, optimizer", "tokens a second", "time of all", "cost"))
    for extra, message in (
        (["--stage", "bas"], "did you mean 'base'"),
        (["--hardware", "h1000"], "did you mean 'h100'"),
        (["--hardware", "h100x8", "--recipe", "gpt2-124"], "did you mean 'gpt2-124m'"),
    ):
        assert main([*asked, *extra]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_the_settings_of_a_training_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "mine.yaml"
    settings.write_text(
        "tokens: nowhere\noutput: nowhere\nmodel: {layers: 2, width: 32, context: 32, heads: 2, vocab_size: 64}\n"
        "train: {steps: 100, batch_size: 4, device: cpu, dtype: float32}\n"
    )
    assert main(["estimate", "--recipe", str(settings)]) == 0
    said = capsys.readouterr().err
    assert "on this machine" in said
    assert "program" in said
    assert "12,800" in said or "12.8k" in said
    settings.write_text("tokens: nowhere\noutput: nowhere\n")
    assert main(["estimate", "--recipe", str(settings)]) == 2
    assert "set model.vocab_size" in " ".join(capsys.readouterr().err.split())
