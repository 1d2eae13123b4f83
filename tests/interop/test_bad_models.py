"""Model folders that are damaged, lie, or ask for what is not supported: one sentence, never a traceback."""

import contextlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fromzero.errors import UserError
from fromzero.interop import load_any, load_model, save_model
from fromzero.model import Transformer
from fromzero.model.encoder_decoder import EncoderDecoder
from tests.conftest import Chain
from tests.interop.test_families import BERT, DECODERS, SPECIAL, T5S, random

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> dict[str, Path]:
    """A good folder of every kind."""
    made = {}
    own = replace(DECODERS["mixtral"][1], norm="layer")
    others = {"gpt2": DECODERS["gpt2"][1], "bert": BERT, "t5": T5S["t5"], "fromzero": own}
    for name, config in (dict(DECODERS.values()) | others).items():
        made[name] = tmp_path_factory.mktemp("models") / name
        made[name].mkdir()
        model = EncoderDecoder(config) if name == "t5" else Transformer(config)
        save_model(random(model), made[name], chain.tokenizer_folder, SPECIAL)
    return made


def copied(source: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("config.json", WEIGHTS):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_any(folder)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llama", {"model_type": ["llama"]}, r"holds a '\['llama'\]' model; supported are llama, gpt2, "),
        ("llama", {"hidden_size": "32"}, "config.json: hidden_size is '32', where a whole number from 1 to 2147483647"),
        ("llama", {"hidden_size": None}, "hidden_size is missing, where a whole number"),
        ("llama", {"num_hidden_layers": 3.0}, "num_hidden_layers is 3.0"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers is True"),
        ("llama", {"num_hidden_layers": 10**9}, "says 1000000000 layers, but there are 30 tensors"),
        ("llama", {"vocab_size": 10**40}, "vocab_size is 1000000000000"),
        ("llama", {"hidden_size": 2**30, "head_dim": 2**30}, "(beyond every machine|has shape)"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ("llama", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', where true or false is needed"),
        ("llama", {"tie_word_embeddings": True}, "the config ties 'lm_head.weight' to the token embedding, but"),
        ("llama", {"attention_bias": True}, r"no tensor 'model\.layers\.0\.self_attn\.q_proj\.bias'"),
        ("llama", {"num_attention_heads": 3}, r"model\.heads \(3\)|does not divide"),
        ("llama", {"hidden_act": ["silu"]}, r"hidden_act = \['silu'\] is not supported; supported: 'silu'"),
        ("llama", {"rope_parameters": 5}, "rope_parameters is 5, where an object is needed"),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_type = 'longrope' is not supported"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters: factor is missing"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor is 0.0; it should"),
        ("mixtral", {"num_local_experts": 2**31 - 1}, "says 3 layers and 2147483647 experts, but there are 78 tensors"),
        ("fromzero", {"fromzero": {"layers": None}}, "config.json: layers takes a whole number, not null"),
        ("fromzero", {"fromzero": [1]}, "should be objects with settings"),
        ("fromzero", {"heads": {"classes": 10**20}}, "the sizes in the config are beyond every machine"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantized weights"),
        ("llama", {"intermediate_size": 40}, r"mlp\..*_proj\.weight' has shape .*48.*, but the config says .*40"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window = True is not supported; supported: False"),
        ("gpt2", {"n_inner": 130}, r"c_fc\.\w+' has shape"),
        ("gemma2", {"layer_types": ["full_attention"] + 2 * ["sliding_attention"]}, "layer_types should have"),
        ("gemma2", {"layer_types": None, "num_hidden_layers": 2**31 - 1}, "says 2147483647 layers"),
        ("gemma2", {"layer_types": 7}, "layer_types should have"),
        ("mixtral", {"num_local_experts": 9}, r"gate\.weight' has shape \(6, 32\), but the config says \(9, 32\)"),
        ("mixtral", {"num_local_experts": 4}, r"tensor 'model\.layers.*' has (shape|no place)"),
        ("mixtral", {"num_experts_per_tok": 7}, "7 experts are active, of 6"),
        ("deepseek_v2", {"kv_lora_rank": 13}, "kv_a_layernorm|has shape"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob = True is not supported"),
        ("deepseek_v2", {"topk_method": "best"}, "supported: 'greedy', 'group_limited_greedy'"),
        ("deepseek_v3", {"first_k_dense_replace": 1}, r"no tensor 'model\.layers\.1\.mlp"),
        ("deepseek_v3", {"rms_norm_eps": 1e-5}, "rms_norm_eps = 1e-05 is not supported"),
        ("bert", {"hidden_act": "silu"}, "hidden_act = 'silu'"),
        ("t5", {"feed_forward_proj": "gated-relu"}, "feed_forward_proj = 'gated-relu'"),
        ("t5", {"num_decoder_layers": 3}, r"no tensor 'decoder\.block\.2"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(
    kind: str, changes: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders[kind], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    refused(folder, message)


def test_tensors_that_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llama"], tmp_path / "m")
    good = load_file(folder / WEIGHTS)
    name = "model.layers.1.self_attn.k_proj.weight"
    for changes, message in (
        ({"model.layers.1.extra": good[name].clone()}, "tensor 'model.layers.1.extra' has no place"),
        ({name: good[name][:4].clone()}, r"k_proj.weight' has shape \(4, 32\), but the config says \(\d+, 32\)"),
        ({name: good[name].flatten().clone()}, "k_proj.weight' has shape"),
        ({name: good[name].to(torch.int8)}, "k_proj.weight' holds I8; supported are F64, F32, F16, BF16"),
    ):
        save_file(good | changes, folder / WEIGHTS)
        refused(folder, message)
    (folder / "config.json").write_text("[" * 100_000)
    refused(folder, "can't be read as JSON")
    (folder / "config.json").write_text(" " * 2_000_000)
    refused(folder, "is larger than 1000000 bytes")
    with pytest.raises(UserError, match="holds an encoder-decoder, which does not write text on its own"):
        load_model(folders["t5"])
    with pytest.raises(UserError, match="holds an encoder, which"):
        load_model(folders["bert"])


def test_files_that_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["llama"], tmp_path / "m")
    data = (folder / WEIGHTS).read_bytes()
    huge = json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**63]}}).encode()
    for damaged in (b"", data[:7], data[:500], data[:-1], data + b"x", struct.pack("<Q", 2**63) + data[8:],
                    struct.pack("<Q", len(huge)) + huge):  # fmt: skip
        (folder / WEIGHTS).write_bytes(damaged)
        refused(folder, "is not valid safetensors")
    (folder / WEIGHTS).unlink()
    index = folder / "model.safetensors.index.json"
    for places, message in (
        ({"a": "a.safetensors"}, "a.safetensors: no such file"),
        ({"a": 1}, "weight_map should say"),
        ([], "weight_map should say"),
        ({"a": "../a.safetensors"}, "outside of the folder"),
        ({"a": ".."}, "outside of the folder|no such file"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        refused(folder, message)
    for name in ("1.safetensors", "2.safetensors"):
        (folder / name).write_bytes(data)
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    refused(folder, "is in two files")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_folder_loads_or_is_refused(data: st.DataObject, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders[data.draw(st.sampled_from(sorted(folders)))], tmp_path / "m")
    if data.draw(st.booleans()):
        config = json.loads((folder / "config.json").read_text())
        values = st.sampled_from(
            ["null", "0", "1", "-1", "3.5", "1e999", "9" * 20, "true", '"x"', "[1]", "{}", '{"a": 1}']
        )
        for _ in range(data.draw(st.integers(1, 3))):
            place = config
            key = data.draw(st.sampled_from(sorted(place)))
            while isinstance(place[key], dict) and place[key]:
                place = place[key]
                key = data.draw(st.sampled_from(sorted(place)))
            place[key] = json.loads(data.draw(values))
        (folder / "config.json").write_text(json.dumps(config))
    else:
        raw = bytearray((folder / WEIGHTS).read_bytes())
        end = 8 + int.from_bytes(raw[:8], "little")
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, min(end + 50, len(raw) - 1)))] = data.draw(st.integers(0, 255))
        (folder / WEIGHTS).write_bytes(raw[: data.draw(st.sampled_from([len(raw), end, end // 2, 4]))])
    with contextlib.suppress(UserError):
        load_any(folder)


def test_other_names_for_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    """Bare models without their prefix, TensorFlow's norms, tables that follow from the config, embeddings twice."""
    for kind, changed in (
        ("llama", lambda t: {n.removeprefix("model."): v for n, v in t.items()}
            | {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
        ("gpt2", lambda t: {n.removeprefix("transformer."): v for n, v in t.items()}
            | {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "lm_head.weight": t["transformer.wte.weight"].clone()}),
        ("bert", lambda t: {("bert." + n).replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v
            for n, v in t.items()} | {"bert.embeddings.position_ids": torch.arange(64)[None]}),
        ("t5", lambda t: t | {f"{s}coder.embed_tokens.weight": t["shared.weight"].clone() for s in ("en", "de")}),
        ("gemma3_text", lambda t: {f"language_model.{n}": v for n, v in t.items()}
            | {"vision_tower.a.weight": torch.ones(2)}),
    ):  # fmt: skip
        folder = copied(folders[kind], tmp_path / kind)
        save_file(changed(load_file(folder / WEIGHTS)), folder / WEIGHTS)
        first, second = load_any(folders[kind]).state_dict(), load_any(folder).state_dict()
        assert not [name for name in first if not torch.equal(first[name], second[name])]
    config = json.loads((tmp_path / "gemma3_text" / "config.json").read_text())
    (tmp_path / "gemma3_text" / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    load_model(tmp_path / "gemma3_text")
