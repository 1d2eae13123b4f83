"""Model folders as such: our own layout, fused experts, files in parts, memory, and pickles that stay closed."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fromzero.errors import UserError
from fromzero.interop import load_any, save_model
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import RopeScaling
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.heads import HeadConfig, HeadedTransformer
from tests.conftest import Chain
from tests.interop.test_families import BERT, DECODERS, DEEPSEEK3, GPT2, LLAMA, SPECIAL, T5, random
from tests.model.shapes import ALL


def test_the_tokenizer_comes_along(tmp_path: Path, chain: Chain) -> None:
    save_model(random(Transformer(LLAMA)), tmp_path, chain.tokenizer_folder, SPECIAL)
    text = "The river near 42 mountains, doesn't it? 从零"
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == chain.tokenizer.encode(text)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path).config.eos_token_id == 319


OWN = {
    **{name: Transformer(config) for name, config in ALL.items()},
    "gpt-2 with swiglu": Transformer(replace(GPT2, activation="swiglu")),
    "a fixed ntk scaling": Transformer(replace(LLAMA, rope_scaling=RopeScaling("ntk", 2.0))),
    "the first Transformer": EncoderDecoder(replace(T5, positions="sinusoidal", norm="layer", norm_placement="post")),
    "a mean of tokens": HeadedTransformer(BERT, HeadConfig(pooling="mean", classes=3)),
    "a classifier on Llama": HeadedTransformer(LLAMA, HeadConfig(pooling="last", classes=2)),
}


@pytest.mark.parametrize("name", OWN)
def test_every_shape_comes_back_as_it_was(name: str, tmp_path: Path, chain: Chain) -> None:
    model = random(OWN[name])
    save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL)
    back = load_any(tmp_path)
    assert type(back) is type(model)
    state = back.state_dict()
    assert state.keys() == model.state_dict().keys()
    for tensor, value in model.state_dict().items():
        assert torch.allclose(state[tensor], value, rtol=0, atol=1e-7), tensor


@pytest.mark.parametrize("name", ["gpt-2 with swiglu", "a fixed ntk scaling", "a mean of tokens", "gpt-oss"])
def test_what_no_published_layout_holds_is_kept_in_ours(name: str, tmp_path: Path, chain: Chain) -> None:
    assert save_model(random(OWN[name]), tmp_path, chain.tokenizer_folder, SPECIAL) == "fromzero"


@pytest.mark.parametrize("name", ["mixtral", "qwen3 moe", "deepseek2"])
def test_fused_experts_are_read(name: str, tmp_path: Path, chain: Chain) -> None:
    """As transformers 5 holds them in memory, and writes them when it is told not to go back to the published names."""
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    model = random(Transformer(DECODERS[name][1]))
    save_model(model, first, chain.tokenizer_folder, SPECIAL)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(first)
    theirs.save_pretrained(second, save_original_format=False)
    assert any(name.endswith("experts.gate_up_proj") for name in load_file(second / "model.safetensors"))
    state = load_any(second).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_further_layers_of_the_published_deepseek_are_left_out(tmp_path: Path, chain: Chain) -> None:
    model = random(Transformer(replace(DEEPSEEK3, predict_ahead=1)))
    save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL)
    assert load_any(tmp_path).config.predict_ahead == 1
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.3.shared_head.norm.weight"] = torch.ones(32)
    save_file(tensors, tmp_path / "model.safetensors")
    assert load_any(tmp_path).config.predict_ahead == 0


_MEASURE = """
import resource, sys
from pathlib import Path
import fromzero.interop.convert
from fromzero.interop import load_any
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
model = load_any(Path(sys.argv[1]))
print((peak() - before) / sum(p.nbytes for p in model.parameters()))
"""


def test_a_model_is_in_memory_once(tmp_path: Path, chain: Chain) -> None:
    with torch.device("meta"):
        model = Transformer(ModelConfig(vocab_size=320, context=32, layers=8, width=1024, heads=8))
    model = model.to_empty(device="cpu")  # 400 MB in fp32, 200 in the file
    save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL, torch.bfloat16)
    command = [sys.executable, "-c", _MEASURE, str(tmp_path)]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 1.3  # the model, one tensor, and what of the file has not been let go yet (64 MB)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("sprung"),))  # type: ignore[return-value]


def test_a_pickle_is_never_opened(tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(random(Transformer(LLAMA)), tmp_path, chain.tokenizer_folder, SPECIAL)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(UserError, match="only safetensors weights are read"):
        load_any(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(UserError, match="not valid safetensors"):
        load_any(tmp_path)
    assert not list(tmp_path.glob("**/sprung"))
