"""What a run is said to take, beside what it takes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fromzero.errors import UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Experts
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.training import TrainConfig
from fromzero.training.cost import (
    HARDWARE,
    Estimate,
    ThisMachine,
    activation_bytes,
    estimate_run,
    memory_bytes,
    named_hardware,
)
from fromzero.training.objective import NextToken
from fromzero.training.optimizers import make_optimizer

LLAMA = ModelConfig(vocab_size=64, context=128, layers=8, width=128, heads=4)
GPT2 = replace(LLAMA, norm="layer", positions="learned", activation="gelu_tanh", bias=True)
ONE = ParallelConfig().sizes(1)
CPU = torch.device("cpu")


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "adafactor", "lion", "muon"])
@pytest.mark.parametrize("shape", [LLAMA, replace(GPT2, tied=False), replace(LLAMA, experts=Experts(4, 2))])
def test_weights_gradients_and_states_are_exact(shape: ModelConfig, optimizer: Any) -> None:
    shape = replace(shape, layers=2, width=32, context=16)
    train = TrainConfig(optimizer=optimizer)
    model = Transformer(shape)
    made = make_optimizer(model.named_parameters(), train)
    NextToken(model)(ids_BT=torch.arange(16)[None], targets_BT=torch.arange(16)[None]).backward()
    made.step()
    found = memory_bytes(shape, train, ONE, 1, torch.float32)
    assert found["weights"] == sum(p.nbytes for p in model.parameters())
    assert found["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    tensors = [t for state in made.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    assert found["optimizer"] == sum(t.nbytes for t in tensors)


@pytest.mark.parametrize(
    ("dtype", "recompute"),
    [(torch.float32, "none"), (torch.bfloat16, "none"), (torch.float32, "selective"), (torch.float32, "full")],
)
@pytest.mark.parametrize("shape", [LLAMA, GPT2, replace(LLAMA, kv_heads=2), replace(LLAMA, experts=Experts(4, 2))])
def test_activations_are_what_stays_allocated(shape: ModelConfig, dtype: torch.dtype, recompute: Any) -> None:
    model = Transformer(shape, compute_dtype=dtype).train()
    parallelize(NextToken(model), ParallelConfig(), World(CPU), recompute)
    ids = torch.randint(0, 64, (4, 128), generator=torch.Generator().manual_seed(0))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        hidden = model.hidden(ids)
    measured = sum(event.self_cpu_memory_usage for event in profiler.events())
    assert hidden.requires_grad
    if dtype == torch.bfloat16:  # weights as products took them
        measured -= 2 * sum(p.numel() for p in model.blocks.parameters() if p.dim() > 1)
    assert measured / 512 == pytest.approx(activation_bytes(shape, dtype, recompute), rel=0.3)


def test_devices_share_what_they_are_told_to() -> None:
    shape = replace(LLAMA, width=1024, heads=8, context=1024, vocab_size=32000)
    train = TrainConfig(batch_size=64, micro_batch_size=4, steps=100, price=2.0)
    one, eight = (
        estimate_run(shape, train, parallel, named_hardware(name), torch.bfloat16, 2.0)
        for parallel, name in ((ParallelConfig(), "h100"), (ParallelConfig(replicate=1, shard=8), "h100x8"))
    )
    assert eight.memory["weights"] * 8 == one.memory["weights"]
    assert eight.memory["optimizer"] * 8 == one.memory["optimizer"]
    assert eight.memory["activations"] == one.memory["activations"]
    assert eight.memory["gathered"] > 0 == one.memory["gathered"]
    assert eight.step_seconds * 8 == pytest.approx(one.step_seconds)
    assert one.cost == pytest.approx(2.0 * one.seconds / 3600)
    with pytest.raises(UserError, match="needs 2 processes, but there are 8"):
        estimate_run(shape, train, ParallelConfig(replicate=2), named_hardware("h100x8"), torch.bfloat16)


def test_less_is_kept_and_more_computed_when_it_is_done_again() -> None:
    shape, h100 = replace(LLAMA, context=1024, vocab_size=32000), named_hardware("h100")
    none, selective, full = (
        estimate_run(shape, TrainConfig(recompute=how), ParallelConfig(), h100, torch.bfloat16)
        for how in ("none", "selective", "full")
    )
    assert none.memory["activations"] > selective.memory["activations"] > full.memory["activations"]
    assert full.step_seconds > none.step_seconds
    micro = estimate_run(shape, TrainConfig(micro_batch_size=4), ParallelConfig(), h100, torch.bfloat16)
    assert micro.memory["activations"] * 4 == none.memory["activations"]


def test_names_of_hardware() -> None:
    for name, sheet in HARDWARE.items():
        assert named_hardware(name) == sheet
        assert named_hardware(f"{name}x8") == replace(sheet, devices=8)
    assert named_hardware("A100-40GBx16") == replace(HARDWARE["a100-40gb"], devices=16)
    with pytest.raises(UserError, match="did you mean 'h100'"):
        named_hardware("h10x8")
    with pytest.raises(UserError, match="write h100 or h100x8"):
        named_hardware("h100x0")


def test_a_probe_of_this_machine_draws_nothing_and_grows_with_the_model() -> None:
    shape = replace(LLAMA, dropout=0.1, width=64, heads=2)
    before = torch.get_rng_state()
    small = ThisMachine(CPU).speed(replace(shape, layers=2), TrainConfig(), 4, torch.float32)
    large = ThisMachine(CPU).speed(replace(shape, layers=40), TrainConfig(), 4, torch.float32)
    assert torch.equal(before, torch.get_rng_state())
    assert large.row > 3 * small.row > 0
    assert large.update >= small.update > 0


def test_errors_are_said_of_the_part_that_was_run(capsys: Any) -> None:
    expected = Estimate({"weights": 2e9, "loss": 0.0}, 2e9, 100, 0.5, 10.0, 1.25)
    expected.say()
    errors = expected.compare(peak=1e9, step_seconds=0.4, seconds=24.0, began=60)
    assert errors == pytest.approx({"memory": 1.0, "step": 0.25, "total": 0.0})
    said = capsys.readouterr().err
    assert "2GB of memory on a device (weights 2GB)" in said
    assert "500 ms a step, 1m 00s in all, at a cost of 1.25" in said
    assert "+25%" in said
