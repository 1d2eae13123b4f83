"""Steps that are compiled give what steps through torch give; both use the same weights and pages."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fromzero.inference import SamplingConfig, generate_tokens
from fromzero.inference.compiled import CompiledRunner, Pace, Team, UnfitError, flat
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.paged import PageStore, run_spans
from fromzero.inference.request import Request, Span
from fromzero.inference.runners import TorchRunner, pick_runner
from fromzero.kernels.compiling import lean
from fromzero.kernels.lanes import exponential, meet
from fromzero.kernels.narrow import BFLOATS, CODES, room_for_rounded
from fromzero.kernels.panels import TOGETHER
from fromzero.kernels.products import Matrix, plain_product, product
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Experts
from fromzero.model.quantized import put, round_to_nearest
from tests.conftest import Chain

LLAMA = ModelConfig(vocab_size=500, context=96, layers=3, width=64, heads=4, kv_heads=2, tied=False)
FAMILIES = {
    "llama": LLAMA,
    "tied": replace(LLAMA, tied=True, logit_softcap=5.0, embedding_scale=3.0, logit_scale=0.5),
    "gpt2": replace(LLAMA, positions="learned", norm="layer", activation="gelu_tanh", bias=True, kv_heads=None),
    "qwen2": replace(LLAMA, qkv_bias=True, rope_base=500.0, activation="geglu"),
    "qwen3": replace(LLAMA, window=11, full_every=2, qk_norm="head", local_rope_base=5000.0, activation="relu_squared"),
}
STEPS = [(30, 20), (1, 1), (1, 3), (2, 5), (0, 1), (4, 1)]
"""Tokens of two sequences in each step."""


def both(model: Transformer, threads: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Logits of each step through torch, and with short steps compiled."""
    plain, other = (PageStore(model, 24, 4, model.compute_dtype) for _ in range(2))
    runner = CompiledRunner(model, other, threads=threads)
    ids = torch.randint(0, 500, (2, 48), generator=torch.Generator().manual_seed(1)).tolist()
    tables, done, found = ([*range(0, 24, 2)], [*range(23, 0, -2)]), [0, 0], []
    for step in STEPS:
        spans = list[Span]()
        for which, count in enumerate(step):
            tokens = ids[which][done[which] : done[which] + count]
            spans += [Span(tokens, done[which], tables[which], min(count, 2))] if count else []
            done[which] += count
        found.append((run_spans(model, plain, spans), runner.run(spans)))
    return found


def assert_close(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], tolerance: float) -> None:
    for plain, compiled in pairs:
        assert plain.shape == compiled.shape
        assert float((plain - compiled).abs().max()) <= tolerance * float(plain.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_as_through_torch(family: str) -> None:
    assert_close(both(Transformer(FAMILIES[family], seed=2).eval()), 1e-5)


def test_one_thread_gives_what_several_give() -> None:
    model = Transformer(FAMILIES["qwen3"], seed=2).eval()
    one, two = both(model, threads=1), both(model, threads=2)
    assert all(torch.equal(mine, other) for (_, mine), (_, other) in zip(one, two, strict=True))


def test_a_step_is_one_threads_while_others_have_the_cores() -> None:
    pace = Pace()
    for seconds in (0.01, 0.03, 0.05, 0.05):
        assert not pace.alone()
        pace.note(1, seconds)
    pace.note(2, 0.05)  # another number of rows, nothing is late
    for _ in range(3):
        assert not pace.alone()
        pace.note(1, 0.05)
    assert [pace.alone() for _ in range(52)] == [True] * 50 + [False] * 2


def test_in_bfloat16() -> None:
    model = Transformer(FAMILIES["qwen2"], seed=2, compute_dtype=torch.bfloat16).eval()
    assert_close(both(model), 3e-2)
    assert model.blocks[0].attention.query.weight.dtype == torch.bfloat16


def test_in_few_bits() -> None:
    model = Transformer(FAMILIES["tied"], seed=2).eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | nn.Embedding):
            put(model, name, round_to_nearest(module.weight.detach(), 4 if isinstance(module, nn.Linear) else 8, 32))
    x_TD, query, key = torch.randn(5, 64), model.blocks[1].attention.query, model.blocks[1].attention.key
    plain = [query(x_TD), key(x_TD), model.head(x_TD, model.head_weight)]
    assert_close(both(model, threads=1), 5e-3 if CODES else 1e-5)  # where inputs are rounded to 8 bits
    assert query.product
    assert model.token_embedding.product
    for before, now in zip(plain, [query(x_TD), key(x_TD), model.head(x_TD, model.head_weight)], strict=True):
        torch.testing.assert_close(now, before)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "8 bits", "4 bits, groups of 32", "4 bits, groups of 64"])
@pytest.mark.parametrize("rows", [1, 3, 6, 8, 33])
@pytest.mark.parametrize("inputs", [64, 128, 576, 1088])
@pytest.mark.parametrize("chosen", [True, False])
def test_products(kind: str, rows: int, inputs: int, chosen: bool) -> None:
    weight, x = torch.randn(2 * 7, inputs), torch.randn(rows, inputs)  # two layers of seven outputs
    x[0, :40] = 0
    none, bias = np.zeros(0, np.int16), torch.randn(14)
    if "bits" in kind:
        packed = round_to_nearest(weight, 4 if "4" in kind[0] else 8, 64 if "64" in kind else 32)
        four, scale = packed.minimum is not None, behind(packed.scale, 16).view(np.int16)
        minimum = behind(packed.minimum, 16).view(np.int16) if packed.minimum is not None else scale
        unit, apart = (16, packed.group // 2) if four else (32, 16)
        matrix = Matrix(behind(packed.codes, 64), scale, minimum, flat(bias), 7, inputs, packed.group, unit, apart)
        weight = packed.unpacked()
        rounds = chosen and CODES and packed.group == 32
    else:
        weight = weight.to(getattr(torch, kind))
        matrix = Matrix(flat(weight), none, none, flat(bias), 7, inputs, inputs, 32, 16)
        rounds = chosen and BFLOATS and kind == "bfloat16"
    y, apart_by = np.ones(rows * 7, np.float32), -(-rows // TOGETHER) * TOGETHER + TOGETHER
    room = room_for_rounded(2 * apart_by, inputs)
    for array in room:
        array[:] = 77
    how = product if chosen else plain_product
    how(matrix, 1, 0, 3, flat(x), 0, rows, y, False, room, apart_by)
    how(matrix, 1, 3, 7, flat(x), 0, rows, y, True, room, apart_by)
    if rounds and kind == "bfloat16":
        x = x.bfloat16()
    elif rounds:
        groups = x.unflatten(1, (-1, 32))
        largest = groups.abs().amax(-1, keepdim=True)
        x = ((groups * (127 / largest.clamp(min=1e-9))).round() * (largest / 127)).flatten(1)
    expected = x.double() @ weight[7:].double().T + bias[7:] + torch.tensor([0.0] * 3 + [1.0] * 4)
    torch.testing.assert_close(torch.from_numpy(y).view(rows, 7).double(), expected, atol=2e-4, rtol=1e-5)


def behind(tensor: torch.Tensor, count: int) -> NDArray[Any]:
    """One dimension, and some elements more that may be anything finite."""
    return flat(torch.cat([tensor.flatten(), torch.full((count,), 9, dtype=tensor.dtype)]))


def test_exponential() -> None:
    x = np.linspace(-86, 88, 4001, dtype=np.float32)
    found = np.array([exponential(number) for number in x], np.float32)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=4e-7)


def test_engine_answers_as_alone(chain: Chain) -> None:
    """Prompts through torch, answers compiled, of several sequences at once, with room for few pages."""
    model = Transformer(replace(LLAMA, vocab_size=chain.tokenizer.vocab_size), seed=5).eval()
    used = Engine(model, chain.tokenizer, EngineConfig(cache_tokens=160, page_tokens=4, step_tokens=13, running=4))
    used.runner = CompiledRunner(model, used.store)
    sampling = SamplingConfig(temperature=0, max_tokens=20, ignore_end=True)
    asked = [Request(str(n), tuple(range(1 + n, 8 + 3 * n)), sampling) for n in range(6)]
    found = used.answers(asked)
    for request in asked:
        tokens = [token for output in found[request.id, 0] for token in output.tokens]
        assert tokens == list(generate_tokens(model, request.prompt, sampling))


def test_what_does_not_fit_goes_through_torch() -> None:
    unfit = {
        "parts": replace(LLAMA, experts=Experts(count=2, active=1)),
        "multiple": replace(LLAMA, width=48, heads=3, kv_heads=3),
        "bfloat16 on a CPU": LLAMA,
    }
    for reason, config in unfit.items():
        model = Transformer(config, compute_dtype=torch.float16 if "CPU" in reason else torch.float32)
        store = PageStore(model, 2, 4, model.compute_dtype)
        with pytest.raises(UnfitError, match=reason):
            CompiledRunner(model, store)
        assert reason in pick_runner(model, store).why


def test_matrices_of_several_kinds_do_not_fit() -> None:
    model = Transformer(LLAMA)
    put(model, "blocks.1.attention.query", round_to_nearest(model.blocks[1].attention.query.weight.detach(), 8, 32))
    with pytest.raises(UnfitError, match="in different ways"):
        CompiledRunner(model, PageStore(model, 2, 4, torch.float32))


@lean
def meeting(thread: Any, threads: Any, gate: Any, times: Any, out: Any) -> None:
    for _ in range(times):
        meet(gate, threads)
        out[thread] += 1


def test_an_interrupted_team_comes_to_its_end() -> None:
    team, out = Team(3), np.zeros(3, np.int64)

    def interrupted(thread: int, *arguments: Any) -> None:
        if thread == 0:
            raise KeyboardInterrupt
        meeting(thread, *arguments)

    with pytest.raises(KeyboardInterrupt):
        team.run(interrupted, 7, out)
    assert out.tolist() == [0, 7, 7]
    team.run(meeting, 5, out)
    assert out.tolist() == [5, 12, 12]


def test_pages_longer_than_the_context() -> None:
    model = Transformer(replace(LLAMA, context=8)).eval()
    assert "measured" in pick_runner(model, PageStore(model, 4, 16, torch.float32)).why


def test_pick_runner_measures() -> None:
    model = Transformer(LLAMA).eval()
    runner = pick_runner(model, PageStore(model, 24, 4, torch.float32))
    assert isinstance(runner, TorchRunner | CompiledRunner)
    assert "measured" in runner.why
