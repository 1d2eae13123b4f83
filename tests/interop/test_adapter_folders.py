"""Adapters in PEFT's layout: PEFT opens ours with our logits, we open its; folders of adapters open as models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fromzero.errors import UserError
from fromzero.interop import load_model, save_model
from fromzero.interop.adapters import (
    BASE,
    CONFIG,
    FOLDER,
    WEIGHTS,
    check_base,
    load_adapters,
    save_adapters,
    save_apart,
)
from fromzero.model import ModelConfig, Transformer
from fromzero.model.adapters import AdapterConfig, adapters, add_adapters, merge_adapters
from fromzero.model.quantized import quantized
from fromzero.model.rounding import round_model
from tests.conftest import Chain
from tests.interop.test_families import GPT2, LLAMA

IDS = torch.arange(3, 15).view(2, 6)
PLAIN, DORA = AdapterConfig(rank=4), AdapterConfig(rank=3, alpha=5, rank_stabilized=True, decomposed=True)


def adapted(config: AdapterConfig, model: Transformer) -> Transformer:
    """With adapters that say something, rows' lengths among it."""
    add_adapters(model, config)
    generator = torch.Generator().manual_seed(1)
    for _, module in adapters(model):
        torch.nn.init.normal_(module.up.weight, std=0.3, generator=generator)
        if module.magnitude is not None:
            module.magnitude.data *= 0.5 + torch.rand(module.magnitude.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize("config", [PLAIN, DORA], ids=["lora", "dora"])
@pytest.mark.parametrize("shape", [LLAMA, replace(LLAMA, qk_norm="head", head_width=16)], ids=["llama", "qwen3"])
def test_peft_opens_ours_and_we_its(chain: Chain, tmp_path: Path, shape: ModelConfig, config: AdapterConfig) -> None:
    (base := tmp_path / "base").mkdir()
    save_model(Transformer(shape, seed=3), base, chain.tokenizer_folder, {})
    ours = adapted(config, load_model(base))
    assert save_adapters(ours, tmp_path / "adapters", config, str(base)) != "fromzero"
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapters")).eval()
    expected = ours(IDS)
    assert not torch.allclose(expected, load_model(base)(IDS), atol=1e-2)
    torch.testing.assert_close(theirs(IDS).logits, expected, rtol=1e-5, atol=1e-5)
    theirs.save_pretrained(str(tmp_path / "again"))
    again = load_model(base)
    load_adapters(again, tmp_path / "again")
    torch.testing.assert_close(again(IDS), expected, rtol=0, atol=1e-6)
    merge_adapters(again)
    torch.testing.assert_close(again(IDS), expected, rtol=1e-5, atol=1e-5)


def test_layers_that_a_family_keeps_together_have_our_names(chain: Chain, tmp_path: Path) -> None:
    model = adapted(PLAIN, Transformer(GPT2, seed=3))
    assert save_adapters(model, tmp_path, PLAIN, "base") == "fromzero"
    assert json.loads((tmp_path / CONFIG).read_text())["layout"] == "fromzero"
    again = Transformer(GPT2, seed=3).eval()
    load_adapters(again, tmp_path)
    torch.testing.assert_close(again(IDS), model(IDS), rtol=0, atol=0)


@pytest.mark.parametrize("few_bits", ["none", "int4"])
def test_adapters_apart_open_as_a_model(
    chain: Chain, tmp_path: Path, few_bits: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (base := tmp_path / "base").mkdir()
    save_model(Transformer(LLAMA, seed=3), base, chain.tokenizer_folder, {})
    model = load_model(base)
    round_model(model, few_bits)
    expected = adapted(PLAIN, model)(IDS)
    apart = tmp_path / "apart"
    apart.mkdir()
    save_apart(model, apart, PLAIN, base, few_bits)
    check_base(apart / FOLDER, base)
    assert ("were made on the model in int4" in capsys.readouterr().err) == (few_bits != "none")
    with pytest.raises(UserError, match="were made on another model"):
        check_base(apart, chain.tokenizer_folder)
    (tmp_path / "moved").mkdir()
    for folder in (base, apart):  # together they can be moved
        folder.rename(tmp_path / "moved" / folder.name)
    opened = load_model(tmp_path / "moved" / "apart")
    assert (next(quantized(opened), None) is None) == (few_bits == "none")
    torch.testing.assert_close(opened(IDS), expected, rtol=1e-5, atol=1e-5)
    config = tmp_path / "moved" / "base" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(UserError, match="not the model that the adapters in"):
        load_model(tmp_path / "moved" / "apart")


def _spoil(folder: Path, **changes: Any) -> None:
    said = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**said, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"r": "8"}, "should be numbers"),
        ({"r": 5}, "is expected"),
        ({"use_dora": True}, "some parts are missing"),
    ],
)
def test_settings_that_are_not_read(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_adapters(adapted(PLAIN, Transformer(LLAMA)), tmp_path, PLAIN, "base")
    _spoil(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        load_adapters(Transformer(LLAMA), tmp_path)


def test_tensors_that_are_not_read(tmp_path: Path) -> None:
    save_adapters(adapted(PLAIN, Transformer(LLAMA)), tmp_path, PLAIN, "base")
    tensors = load_file(tmp_path / WEIGHTS)
    for name, message in {
        "base_model.model.lm_head.weight": "no part of LoRA or DoRA",
        "base_model.model.lm_head.lora_A.weight": "is no linear layer",
        "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": "is no linear layer",
    }.items():
        save_file({**tensors, name: torch.zeros(4, 32)}, tmp_path / WEIGHTS)
        with pytest.raises(UserError, match=message):
            load_adapters(Transformer(LLAMA), tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match="never pickles"):
        load_adapters(Transformer(LLAMA), tmp_path)


def test_a_base_that_is_no_model_is_not_read(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / BASE).write_text(json.dumps({"model": "/", "digest": "0", "quantize": "none"}))
    with pytest.raises(UserError, match="is not the model that"):
        load_model(tmp_path)
