"""Weights in few bits: exact bounds, methods against rounding, whole models, folders and their damage."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fromzero import artifact
from fromzero.commands import main
from fromzero.errors import UserError
from fromzero.inference import SamplingConfig, generate_tokens
from fromzero.inference.engine import EngineConfig
from fromzero.inference.opening import open_engine
from fromzero.inference.quantize import QuantizeConfig, quantize_model
from fromzero.inference.quantize.awq import places, scale_block
from fromzero.inference.quantize.gptq import gptq
from fromzero.inference.quantize.model import Method
from fromzero.inference.request import Request
from fromzero.interop import load_any, load_model, save_model
from fromzero.interop.huggingface import unquantized
from fromzero.model import ModelConfig, Transformer
from fromzero.model.block import Block
from fromzero.model.config import Experts, Latent
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.narrow import to_compute
from fromzero.model.quantized import Bits, QuantizedEmbedding, QuantizedLinear, put, quantized, round_to_nearest
from tests.conftest import Chain

LLAMA = ModelConfig(vocab_size=320, context=64, layers=2, width=64, heads=4, kv_heads=2, ffn_width=96, tied=False)
SHAPES = {
    "llama": LLAMA,
    "tied": replace(LLAMA, tied=True),
    "gpt2": replace(LLAMA, positions="learned", norm="layer", activation="gelu_tanh", bias=True, kv_heads=None),
    "sandwich": replace(LLAMA, norm_placement="sandwich", qk_norm="head", logit_softcap=9.0, embedding_scale=8.0),
    "output norms": replace(LLAMA, norm_placement="output"),
    "parallel": replace(LLAMA, parallel=True),
    "latent": replace(LLAMA, kv_heads=None, latent=Latent(kv_rank=16, nope_width=8, rope_width=8, value_width=8)),
    "experts": replace(LLAMA, experts=Experts(count=4, active=2, width=32, shared=32)),
}
BITS = pytest.mark.parametrize("bits", [4, 8])


def inputs(rows: int, width: int, seed: int = 0) -> Tensor:
    """Correlated inputs, some of their channels far larger than others."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, width, generator=generator) @ torch.randn(width, width, generator=generator) / width**0.5
    return mixed * torch.randn(width, generator=generator).exp()


def change(found: Tensor, exact: Tensor) -> float:
    """Of all numbers together, relative."""
    return ((found.float() - exact.float()).norm() / exact.float().norm()).item()


def squared(weight: Tensor, x: Tensor) -> float:
    return float((x @ weight.T).square().sum())


@given(st.integers(0, 2**31), st.sampled_from([8, 32, 64]), st.sampled_from([1e-4, 1.0, 1e3]), st.sampled_from([4, 8]))
@settings(max_examples=40, deadline=None)
def test_a_weight_moves_by_half_a_step_at_most(seed: int, group: int, size: float, bits: Bits) -> None:
    weight = torch.randn(6, 128, generator=torch.Generator().manual_seed(seed)) * size
    packed = round_to_nearest(weight, bits, group)
    assert (packed.bits, packed.group, packed.shape) == (bits, group, (6, 128))
    step = packed.scale.float().repeat_interleave(group, 1)
    # Scales and minima are float16: half of their last digit for each step from 0 (or the minimum), and that of it.
    last = (15 if bits == 4 else 127) * (step * 2**-11 + 2**-25)
    last += 0 if packed.minimum is None else packed.minimum.float().abs().repeat_interleave(group, 1) * 2**-11 + 2**-25
    assert ((weight - packed.unpacked()).abs() <= step / 2 + last).all()


@BITS
def test_what_is_on_the_grid_stays(bits: Bits) -> None:
    once = round_to_nearest(torch.randn(8, 64), bits, 32)
    twice = round_to_nearest(once.unpacked(), bits, 32)
    assert torch.equal(once.codes, twice.codes)
    assert torch.equal(once.unpacked(), twice.unpacked())
    flat = torch.full((2, 32), 0.5)  # of one value there is no scale
    assert torch.equal(round_to_nearest(flat, 4, 32).unpacked(), flat)


def test_where_codes_lie() -> None:
    weight = torch.arange(32.0).expand(1, 32) / 31 * 15
    packed = round_to_nearest(weight, 4, 32)
    codes = weight.round().to(torch.uint8)
    assert torch.equal(packed.codes, codes[:, :16] | codes[:, 16:] << 4)


@BITS
def test_products_rows_and_gradients(bits: Bits) -> None:
    packed = round_to_nearest(torch.randn(24, 64), bits, 32)
    bias = torch.randn(24)
    layer, table = QuantizedLinear(packed, bias), QuantizedEmbedding(packed)
    x = torch.randn(5, 64, requires_grad=True)
    torch.testing.assert_close(layer(x), x @ packed.unpacked().T + bias)
    ids = torch.tensor([[3, 0], [23, 3]])
    assert torch.equal(table(ids), packed.unpacked()[ids])
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)
    moved = torch.randn_like(x)  # a square's central difference is exact at any distance
    grown = (layer(x + moved).square() - layer(x - moved).square()).double().sum() / 2
    torch.testing.assert_close((gradient * moved).double().sum(), grown, rtol=1e-4, atol=1e-2)
    assert not any(p.requires_grad for p in layer.parameters())
    layer.product = lambda x, own: x.new_full((*x.shape[:-1], own.packed.shape[0]), 7.0)
    assert torch.equal(layer(x.detach()), 7 + bias.expand(5, -1))
    assert layer(x).requires_grad  # a fast product has no gradient


@BITS
@pytest.mark.parametrize("group", [32, 64])
def test_gptq_loses_less_than_rounding(bits: Bits, group: int) -> None:
    x, weight = inputs(400, 128), torch.randn(48, 128)
    rounded, moved = round_to_nearest(weight, bits, group), gptq(weight, x.T @ x, bits, group)
    assert torch.equal(rounded.scale, moved.scale)
    assert squared(weight - moved.unpacked(), x) < 0.7 * squared(weight - rounded.unpacked(), x)


def test_gptq_with_inputs_that_are_never_used() -> None:
    x, weight = inputs(100, 64), torch.randn(8, 64)
    x[:, 10:20] = 0
    assert gptq(weight, x.T @ x, 4, 32).unpacked().isfinite().all()
    same = gptq(weight, torch.zeros(64, 64), 4, 32)  # nothing known: rounding
    assert torch.equal(same.codes, round_to_nearest(weight, 4, 32).codes)


def test_gptq_against_its_plain_form() -> None:
    """Column by column, the rest moved by the inverse of what is left of H (Frantar 2022, eq. 2 and 3)."""
    x, weight = inputs(300, 32).double(), torch.randn(5, 32)
    hessian = x.T @ x
    grid = round_to_nearest(weight, 4, 32)
    assert grid.minimum is not None
    scale, minimum = grid.scale.double(), grid.minimum.double()
    damped, left = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(32), weight.double()
    todo = hessian.diagonal().argsort(descending=True).tolist()
    found = torch.empty_like(left)
    while todo:
        column, inverse = todo[0], torch.linalg.inv(damped[todo][:, todo])
        value = ((left[:, [column]] - minimum) / scale).round().clamp(0, 15) * scale + minimum
        found[:, column] = value[:, 0]
        error = (left[:, column] - value[:, 0]) / inverse[0, 0]
        left[:, todo] -= error[:, None] * inverse[0]
        todo = todo[1:]
    torch.testing.assert_close(gptq(weight, hessian.float(), 4, 32).unpacked(), found.float(), rtol=1e-3, atol=1e-3)


def model_of(config: ModelConfig, seed: int = 1) -> Transformer:
    """Weights as large as trained ones, norms that make some channels large."""
    model, generator = Transformer(config, seed).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
            elif name.endswith("norm.weight"):
                parameter.mul_(torch.randn(parameter.shape, generator=generator).exp())
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
    return model


def ids_of(config: ModelConfig, rows: int = 6) -> Tensor:
    return torch.randint(0, config.vocab_size, (rows, 48), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("shape", SHAPES)
def test_scaling_changes_nothing_without_rounding(shape: str) -> None:
    """AWQ's factors come out again in what makes the inputs."""
    config = SHAPES[shape]
    model, ids = model_of(config), ids_of(config, 2)
    before = model(ids)
    old = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for block in model.blocks:
        assert isinstance(block, Block)
        found: dict[nn.Module, Tensor] = {}
        for place in places(block):
            hessian = torch.diag(inputs(50, place.layers[0].in_features).square().sum(0))
            found |= dict.fromkeys(place.layers, hessian)
        # What is best is to have the first input that is large made as large as may be.
        scale_block(block, found, lambda weight, hessian: -float(weight[:, 0].abs().sum()))
    torch.testing.assert_close(model(ids), before, rtol=1e-4, atol=1e-4)
    assert any(not torch.equal(old[name], parameter) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
@pytest.mark.parametrize("shape", SHAPES)
def test_whole_models(shape: str, method: Method, tmp_path: Path, chain: Chain) -> None:
    config = SHAPES[shape]
    model, ids = model_of(config), ids_of(config)
    before, parameters, flops = model(ids), model.parameter_count(), model.flops_per_token()
    reports = quantize_model(model, QuantizeConfig(8, method), ids)
    assert model.section is None
    assert (model.parameter_count(), model.flops_per_token()) == (parameters, flops)
    names = {name for name, _ in quantized(model)}
    assert names == {report.name for report in reports}
    assert len(names) == len(reports)
    left = {name for name, p in model.named_parameters() if p.dim() > 1}
    assert all("router" in name or "position" in name for name in left)
    assert max(report.error for report in reports) < 0.02
    after = model(ids)
    assert change(after, before) < (0.2 if config.experts else 0.1)  # some tokens go to another expert
    save_model(model, tmp_path, chain.tokenizer_folder, {})
    again = load_any(tmp_path).eval()
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(again(ids), after)
    torch.testing.assert_close(unquantized(again)(ids), after, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "sandwich"])
def test_methods_lose_less_than_rounding(shape: str, method: Method) -> None:
    config, losses = SHAPES[shape], {}
    ids, fresh = ids_of(config, 24), torch.randint(0, 320, (6, 48), generator=torch.Generator().manual_seed(9))
    exact = model_of(config)(fresh).log_softmax(-1)
    for name in ("rtn", method):
        model = model_of(config)
        reports = quantize_model(model, QuantizeConfig(4, name, 64), ids)
        divergence = (exact.exp() * (exact - model(fresh).log_softmax(-1))).sum(-1).mean()
        losses[name] = float(divergence), math.fsum(report.error for report in reports if report.bits == 4)
    assert losses[method][1] < 0.9 * losses["rtn"][1]
    assert losses[method][0] < losses["rtn"][0]


def test_encoder_decoders_are_rounded() -> None:
    config = replace(LLAMA, kind="encoder_decoder", encoder_layers=2)
    model, ids = EncoderDecoder(config).eval(), ids_of(config, 2)
    before = model(ids, ids)
    quantize_model(model, QuantizeConfig(8))
    torch.testing.assert_close(model(ids, ids), before, rtol=0.05, atol=0.05)
    with pytest.raises(UserError, match="encoder-decoder can only be rounded"):
        quantize_model(EncoderDecoder(config), QuantizeConfig(4, "gptq"), ids)


def test_what_is_refused() -> None:
    model = model_of(LLAMA)
    with pytest.raises(UserError, match="awq needs calibration text"):
        quantize_model(model, QuantizeConfig(4, "awq"))
    with pytest.raises(UserError, match="group of 48 inputs"):
        quantize_model(model, QuantizeConfig(4, group=48))
    quantize_model(model, QuantizeConfig(4, group=128))
    assert {matrix.packed.group for _, matrix in quantized(model)} == {32, 64}  # 96 and 64 inputs
    with pytest.raises(UserError, match="in few bits already"):
        quantize_model(model, QuantizeConfig(4))
    with pytest.raises(UserError, match=r"'blocks.0.feed_forward.down' has 100 inputs, .* groups of 8"):
        quantize_model(Transformer(replace(LLAMA, ffn_width=100)), QuantizeConfig(4))
    bad = model_of(LLAMA)
    bad.state_dict()["blocks.1.attention.key.weight"][0, 0] = math.nan
    with pytest.raises(UserError, match=r"'blocks.1.attention.key' has weights beyond 30000"):
        quantize_model(bad, QuantizeConfig(8))


def saved(folder: Path, chain: Chain, bits: Bits | None = 4) -> Path:
    model = model_of(LLAMA.with_vocab(chain.tokenizer.vocab_size))
    if bits:
        quantize_model(model, QuantizeConfig(bits))
    folder.mkdir()
    save_model(model, folder, chain.tokenizer_folder, {"eos": chain.tokenizer.end_of_text})
    return folder


KEY = "blocks.0.attention.key"
DAMAGE: dict[str, tuple[Any, str]] = {
    "no scale": (lambda t: t.pop(f"{KEY}.scale"), f"'{KEY}' has 4-bit codes .* in 0 groups"),
    "short codes": (lambda t: t.update({f"{KEY}.codes": t[f"{KEY}.codes"][:, :-1]}), "4-bit codes .*31.* 32 x 64"),
    "no minimum": (lambda t: t.pop(f"{KEY}.minimum"), "8-bit codes .*32, 32.* 32 x 64 weights"),
    "odd groups": (lambda t: t.update({f"{KEY}.scale": t[f"{KEY}.scale"].repeat(1, 32)}), "in 64 groups a row"),
    "minima of another": (lambda t: t.update({f"{KEY}.minimum": t[f"{KEY}.minimum"][1:]}), "minimum' has shape"),
    "floats": (
        lambda t: t.update({f"{KEY}.codes": t[f"{KEY}.codes"].float()}),
        "holds torch.float32, where torch.uint8",
    ),
    "signed": (lambda t: t.update({f"{KEY}.codes": t[f"{KEY}.codes"].view(torch.int8)}), "holds torch.int8, where"),
    "no codes": (lambda t: t.pop(f"{KEY}.codes"), f"no tensor '{KEY}.weight'"),
    "unknown": (lambda t: t.update({"blocks.0.other.codes": torch.zeros(2, 2)}), "'blocks.0.other.codes' has no place"),
    "of a norm": (lambda t: t.update({"final_norm.weight.codes": torch.zeros(2, 2)}), "has no place"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders(damage: str, tmp_path: Path, chain: Chain) -> None:
    folder = saved(tmp_path / "m", chain)
    harm, message = DAMAGE[damage]
    tensors = load_file(folder / "model.safetensors")
    harm(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_other_formats_of_folders(tmp_path: Path, chain: Chain) -> None:
    folder = saved(tmp_path / "m", chain)
    config = json.loads((folder / "config.json").read_text())
    for said in ({"format": 2}, [1], "int4"):
        (folder / "config.json").write_text(json.dumps(config | {"quantization": said}))
        with pytest.raises(UserError, match="known is format 1"):
            load_model(folder)


@pytest.mark.parametrize("config", [LLAMA, SHAPES["experts"], SHAPES["gpt2"]])
def test_matrices_cast_once(config: ModelConfig, tmp_path: Path, chain: Chain) -> None:
    """With weights in bfloat16, what a model computes in bfloat16 stays; they take half of the memory."""
    tmp_path.joinpath("m").mkdir()
    save_model(model_of(config), tmp_path / "m", chain.tokenizer_folder, {})
    ids = ids_of(config, 2)
    exact = load_model(tmp_path / "m")(ids)
    before, model = load_model(tmp_path / "m", torch.bfloat16), load_model(tmp_path / "m", dtype=torch.bfloat16)
    assert model.compute_dtype == torch.bfloat16
    size, half = (sum(p.nbytes for p in m.parameters()) for m in (before, model))
    assert half < 0.53 * size or config.positions == "learned"
    kept = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert all("norm" in name or "router" in name or "position" in name for name in kept)
    assert change(model(ids), exact) < 0.1
    assert change(model(ids), before(ids)) < 0.1


def test_few_bits_in_bfloat16(tmp_path: Path, chain: Chain) -> None:
    folder = saved(tmp_path / "m", chain)
    ids = ids_of(LLAMA, 2) % chain.tokenizer.vocab_size
    exact, model = load_model(folder)(ids), load_model(folder, dtype=torch.bfloat16)
    assert change(model(ids), exact) < 0.1
    to_compute(model, torch.float32)
    assert model(ids).dtype == torch.float32


def test_convert(tmp_path: Path, chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = saved(tmp_path / "m", chain, bits=None), tmp_path / "q"
    text = tmp_path / "text.txt"
    text.write_text("The river near the stone is quiet. " * 60)
    more = ["--calibration", str(chain.documents), "--evaluate", str(text), "--calibration_tokens", "640"]
    assert main(["convert", str(source), "--output", str(out), "--quantize", "int4", "--method", "gptq", *more]) == 0
    said = capsys.readouterr()
    assert "bits per byte" in said.out + said.err
    made = artifact.open_artifact(out, "model").summary
    assert made["bytes"] == (out / "model.safetensors").stat().st_size < 0.3 * made["source_bytes"]
    assert abs(made["bits_per_byte"] / made["source_bits_per_byte"] - 1) < 0.1
    assert {(layer["bits"], layer["group"]) for layer in made["layers"]} == {(4, 32), (8, 32)}
    assert len(list(generate_tokens(load_model(out), [5, 6], SamplingConfig(max_tokens=3)))) == 3
    scores = [str(out), "--corpus", str(chain.corpus), "--output", str(tmp_path / "s"), "--baselines", "false"]
    assert main(["evaluate", "perplexity", *scores]) == 0
    assert main(["convert", str(out), "--output", str(tmp_path / "plain")]) == 0
    ids = ids_of(LLAMA, 2) % chain.tokenizer.vocab_size
    torch.testing.assert_close(load_model(tmp_path / "plain")(ids), load_model(out)(ids), rtol=1e-4, atol=1e-4)
    assert main(["convert", str(out), "--output", str(tmp_path / "q.gguf"), "--format", "gguf", "--dtype", "q8_0"]) == 0


@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_weights_are_the_same_in_gguf(bits: Bits, tmp_path: Path, chain: Chain) -> None:
    folder, file = saved(tmp_path / "m", chain, bits), tmp_path / "m.gguf"
    kind = {4: "q4_1", 8: "q8_0"}[bits]
    assert main(["convert", str(folder), "--output", str(file), "--format", "gguf", "--dtype", kind]) == 0
    own, theirs = unquantized(load_model(folder)).state_dict(), load_model(file).state_dict()
    changed = {name for name in own if not torch.equal(own[name], theirs[name])}
    assert changed == ({"token_embedding.weight", "head.weight"} if bits == 4 else set())  # those were in 8 bits


REFUSED = {
    "no text": (
        ["--quantize", "int4", "--method", "awq", "--calibration", "missing.txt"],
        "missing.txt: there is no file to read",
    ),
    "no calibration": (["--quantize", "int4", "--method", "gptq"], "gptq needs calibration text"),
    "too little": (
        ["--quantize", "int4", "--method", "gptq", "--calibration", "short.txt"],
        "tokens of calibration text",
    ),
    "not text": (["--quantize", "int8", "--evaluate", "bytes.txt"], "bytes.txt holds something else than text"),
    "gguf": (["--quantize", "int4", "--format", "gguf"], "--quantize writes a folder"),
    "method alone": (["--method", "gptq"], "--method says how to quantize"),
    "bits": (["--quantize", "int3"], "int3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_conversions(
    case: str, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "m", chain, bits=None)
    monkeypatch.chdir(tmp_path)
    Path("short.txt").write_text("few words")
    Path("bytes.txt").write_bytes(bytes(range(256)) * 9)
    arguments, message = REFUSED[case]
    assert main(["convert", "m", "--output", "q", *arguments]) == 2
    said = capsys.readouterr()
    assert message in " ".join((said.out + said.err).split())


def test_quantized_models_are_not_tuned(tmp_path: Path, chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "m", chain, bits=None)
    assert main(["convert", str(tmp_path / "m"), "--output", str(tmp_path / "q"), "--quantize", "int8"]) == 0
    talk = tmp_path / "talk.jsonl"
    turns = [{"role": "user", "content": "What is quiet?"}, {"role": "assistant", "content": "The river."}]
    talk.write_text(json.dumps({"messages": turns}) + "\n")
    command = ["--model", str(tmp_path / "q"), "--conversations", str(talk), "--output", str(tmp_path / "t")]
    assert main(["finetune", "chat", *command]) == 2
    said = capsys.readouterr()
    assert "weights in few bits: train adapters on it" in " ".join((said.out + said.err).split())


def test_a_parameter_gives_way(chain: Chain) -> None:
    model = Transformer(LLAMA)
    put(model, "head.weight", round_to_nearest(model.state_dict()["head.weight"], 8, 32))
    assert "head.weight.codes" in model.state_dict()
    hidden = torch.randn(3, 64)
    targets = torch.tensor([1, 5, -100])
    logits = model.head(hidden, model.head_weight)
    nats = model.head.nats(hidden, model.head_weight, targets)
    torch.testing.assert_close(nats[:2], -logits.log_softmax(-1)[[0, 1], [1, 5]])
    torch.testing.assert_close(model.head.loss(hidden, model.head_weight, targets), nats.sum())


def test_an_engine_in_bfloat16(tmp_path: Path, chain: Chain) -> None:
    folder = saved(tmp_path / "m", chain, bits=None)
    engine = open_engine(folder, "cpu", EngineConfig(dtype="bfloat16", cache_tokens=256))
    assert isinstance(engine.model, Transformer)
    assert engine.model.compute_dtype == torch.bfloat16
    assert not [name for name, p in engine.model.named_parameters() if p.dim() > 1 and p.dtype != torch.bfloat16]
    request = Request("a", (1, 2, 3), SamplingConfig(temperature=0, max_tokens=5, ignore_end=True))
    assert sum(len(output.tokens) for output in engine.answers([request])["a", 0]) == 5
