"""Conversions from format to format, and that a bad one is noticed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fromzero.commands import main
from fromzero.errors import UserError
from fromzero.interop import load_any, save_model
from fromzero.interop.convert import BOUNDS, ConvertConfig, Numbers, convert
from fromzero.model import ModelConfig, Transformer
from fromzero.model.encoder_decoder import EncoderDecoder
from tests.conftest import Chain
from tests.interop.test_families import LLAMA, SPECIAL, T5, random

WIDE = replace(LLAMA, width=64, ffn_width=96)


def saved(config: ModelConfig, folder: Path, chain: Chain) -> Path:
    folder.mkdir()
    model = EncoderDecoder(config) if config.kind == "encoder_decoder" else Transformer(config)
    save_model(random(model), folder, chain.tokenizer_folder, SPECIAL)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_to_a_folder(dtype: Numbers, tmp_path: Path, chain: Chain) -> None:
    source = saved(LLAMA, tmp_path / "a", chain)
    (source / "generation_config.json").write_text('{"top_k": 7}')
    made = convert(ConvertConfig(source, tmp_path / "b", dtype=dtype, shard_gigabytes=1e-5))
    assert made.tensors == len(load_file(source / "model.safetensors"))
    assert made.difference == 0 if dtype == "float32" else BOUNDS[dtype] / 8 < made.difference <= BOUNDS[dtype]
    assert made.logits < {"float32": 1e-6, "bfloat16": 0.1, "float16": 0.01}[dtype]
    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    shards = [load_file(file) for file in sorted((tmp_path / "b").glob("*.safetensors"))]
    assert len(shards) > 3
    assert index["weight_map"].keys() == {name for shard in shards for name in shard}
    assert index["metadata"]["total_size"] == sum(t.nbytes for shard in shards for t in shard.values())
    assert {str(t.dtype) for shard in shards for t in shard.values()} == {f"torch.{dtype}"}
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (config["dtype"], config["eos_token_id"]) == (dtype, 319)
    assert json.loads((tmp_path / "b" / "generation_config.json").read_text()) == {"top_k": 7}
    assert (tmp_path / "b" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_to_gguf_and_back(dtype: Numbers, tmp_path: Path, chain: Chain) -> None:
    source = saved(WIDE, tmp_path / "a", chain)
    made = convert(ConvertConfig(source, tmp_path / "b.gguf", "gguf", dtype))
    assert BOUNDS[dtype] / 8 < made.difference <= BOUNDS[dtype] or dtype == "float32"
    back = convert(ConvertConfig(tmp_path / "b.gguf", tmp_path / "c"))
    assert (back.difference, back.logits) == (0, 0)
    if dtype == "float32":
        first, last = (load_any(folder).state_dict() for folder in (source, tmp_path / "c"))
        assert made.difference == 0
        assert all(torch.equal(first[name], last[name]) for name in first)


def test_what_is_refused(tmp_path: Path, chain: Chain) -> None:
    source, t5 = saved(LLAMA, tmp_path / "a", chain), saved(T5, tmp_path / "t5", chain)
    for config, message in (
        (ConvertConfig(source, t5), "exists already; name a new one"),
        (ConvertConfig(source, tmp_path / "b", dtype="q8_0"), "q8_0 is for --format gguf; choose one of float32"),
        (ConvertConfig(source, tmp_path / "b", "gguf"), "ends with .gguf"),
        (ConvertConfig(t5, tmp_path / "b.gguf", "gguf"), "is no decoder"),
        (ConvertConfig(tmp_path / "nothing", tmp_path / "b"), "no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            convert(config)
    assert convert(ConvertConfig(t5, tmp_path / "t5b")).logits == 0


def test_a_weight_that_does_not_survive_ends_with_2(
    tmp_path: Path, chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(LLAMA, tmp_path / "a", chain)
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = 1e6  # beyond float16
    save_file(tensors, source / "model.safetensors")
    arguments = ["convert", str(source), "--output", str(tmp_path / "b"), "--dtype", "float16"]
    assert main(arguments) == 2
    assert "'blocks.1.feed_forward.up.weight' came back with a difference of inf" in " ".join(
        capsys.readouterr().err.split()
    )
    assert (tmp_path / "b" / "config.json").exists()
    assert main([*arguments[:3], str(tmp_path / "c"), "--dtype", "bfloat16"]) == 0
    assert "logits by" in capsys.readouterr().err
