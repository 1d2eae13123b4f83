"""Parity with transformers' GPT-2 and Llama, folder to folder, and what is refused."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fromzero.errors import UserError
from fromzero.interop import load_model, save_model
from fromzero.model import ModelConfig, Transformer
from tests.conftest import Chain

LLAMA = ModelConfig(vocab_size=320, context=32, layers=3, width=32, heads=4, kv_heads=2, tied=False, rope_base=5000.0)
GPT2 = ModelConfig(
    vocab_size=320, context=32, layers=3, width=32, heads=4, positions="learned", norm="layer", bias=True,
    activation="gelu_tanh",
)  # fmt: skip
ids = torch.randint(0, 320, (2, 32), generator=torch.Generator().manual_seed(0))
SPECIAL = {"bos": 317, "eos": 319}


def randomised(config: ModelConfig) -> Transformer:
    """Random values everywhere, norm weights and biases too, so that no tensor can be mistaken for another."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + 0.1)
    return model.eval()


@pytest.mark.parametrize(
    "config",
    [LLAMA, replace(LLAMA, tied=True, kv_heads=1), replace(LLAMA, head_width=16), GPT2, replace(GPT2, tied=False),
     replace(GPT2, activation="gelu")],
)  # fmt: skip
def test_what_we_save_transformers_opens_with_the_same_logits(
    config: ModelConfig, tmp_path: Path, chain: Chain
) -> None:
    model = randomised(config)
    save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in theirs.parameters()) == model.parameter_count()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "The river near 42 mountains, doesn't it? 从零"
    assert tokenizer(text)["input_ids"] == chain.tokenizer.encode(text)


@pytest.mark.parametrize("config", [LLAMA, replace(LLAMA, tied=True), GPT2])
def test_what_transformers_saves_we_open_with_the_same_logits(config: ModelConfig, tmp_path: Path) -> None:
    if config.norm == "rms":
        theirs = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=320, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=config.tied,
                bos_token_id=1, eos_token_id=2, pad_token_id=0,
            )
        ).eval()  # fmt: skip
    else:
        theirs = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=320, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
            )
        ).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [LLAMA, GPT2, replace(LLAMA, norm="layer", activation="geglu", bias=True)])
def test_a_round_trip_is_exact(config: ModelConfig, tmp_path: Path, chain: Chain) -> None:
    model = randomised(config)
    kind = save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL)
    assert kind == {"rms": "llama"}.get(config.norm, "gpt2" if config is GPT2 else "fromzero")
    back = load_model(tmp_path).eval()
    assert torch.equal(back(ids), model(ids))


def test_the_published_gpt2_files_lack_a_prefix(tmp_path: Path, chain: Chain) -> None:
    model = randomised(GPT2)
    save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name.removeprefix("transformer."): t for name, t in tensors.items()}, tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path).eval()(ids), model(ids))


def test_what_is_refused(tmp_path: Path, chain: Chain) -> None:
    model = randomised(LLAMA)
    save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL)
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(message: str, **changes: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=message):
            load_model(tmp_path)

    refused("holds a 'mamba' model; supported are llama, gpt2,", model_type="mamba")
    refused("rope_type = 'su' is not supported", rope_parameters={"rope_type": "su", "rope_theta": 1.0})
    refused("hidden_act = 'gelu' is not supported", hidden_act="gelu")
    refused(r"tensor 'blocks\.0\.feed_forward\.up\.weight' has shape .* but the config says", intermediate_size=64)
    refused(r"no tensor 'model\.layers\.3\.", num_hidden_layers=4)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="can't be read as JSON"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="no such file; name the folder of a model"):
        load_model(tmp_path / "nothing")


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("sprung"),))  # type: ignore[return-value]


def test_a_pickle_is_never_opened(tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(randomised(LLAMA), tmp_path, chain.tokenizer_folder, SPECIAL)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(UserError, match="only safetensors weights are read"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(UserError, match="not valid safetensors"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(UserError, match="outside of the folder"):
        load_model(tmp_path)
    assert not list(tmp_path.glob("**/sprung"))
