"""Less is kept of a block, and gradients are the same to the bit."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fromzero.device import narrow_products_pay
from fromzero.model import EncoderDecoder, ModelConfig, Transformer
from fromzero.model.block import Block
from fromzero.model.recompute import Recompute
from fromzero.training.objective import next_token_loss
from tests.model.shapes import DECODERS

ids = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
FAMILIES = ("llama", "gpt-2", "gemma 2", "gpt-oss", "gpt-j", "t5 decoder", "qwen 2 moe", "deepseek v3")


def set_recompute(model: torch.nn.Module, how: Recompute) -> None:
    for block in model.modules():
        if isinstance(block, Block):
            block.recompute = how


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_the_same_to_the_bit_with_dropout(name: str) -> None:
    model = Transformer(replace(DECODERS[name], dropout=0.2)).train()
    found = {}
    kinds: tuple[Recompute, ...] = ("none", "selective", "full")
    for how in kinds:
        set_recompute(model, how)
        torch.manual_seed(3)
        loss = next_token_loss(model, ids, ids.roll(-1, 1))
        found[how] = {"loss": loss.detach().clone(), **gradients(model, loss)}
        loads = [m.load_E.sum() for m in model.modules() if getattr(m, "load_E", None) is not None]
        assert all(load == ids.numel() * 2 for load in loads), "a token was counted twice"
        model.balance_experts()
        model.load_state_dict(Transformer(model.config).state_dict())
    for how in kinds[1:]:
        assert found[how].keys() == found["none"].keys()
        for key, tensor in found["none"].items():
            assert torch.equal(found[how][key], tensor), (how, key)


def test_a_decoder_over_an_encoder() -> None:
    model = EncoderDecoder(replace(DECODERS["llama"], kind="encoder_decoder", dropout=0.1)).train()
    found = []
    kinds: tuple[Recompute, ...] = ("none", "selective", "full")
    for how in kinds:
        set_recompute(model, how)
        torch.manual_seed(3)
        found.append(gradients(model, model(ids, ids).square().sum()))
    for other in found[1:]:
        assert all(torch.equal(tensor, other[key]) for key, tensor in found[0].items())


def test_memory_falls() -> None:
    """What is alive after the forward pass, as the allocator counts it."""
    model = Transformer(ModelConfig(vocab_size=8, context=128, layers=4, width=64, heads=4)).train()
    x = torch.zeros(4, 128, dtype=torch.long)
    kept = {}
    kinds: tuple[Recompute, ...] = ("none", "selective", "full")
    for how in kinds:
        set_recompute(model, how)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            hidden = model.hidden(x)
        kept[how] = sum(event.self_cpu_memory_usage for event in recorded.key_averages())
        del hidden
    one = 4 * 128 * 64 * 4  # bytes of the residual stream
    assert kept["full"] < 4 * one * 2.5
    assert kept["full"] < 0.5 * kept["selective"]
    assert kept["selective"] < 0.75 * kept["none"]


def test_what_is_measured_in_a_first_pass_is_not_taken_for_its_own_products() -> None:
    model = Transformer(DECODERS["llama"], compute_dtype=torch.bfloat16).train()
    set_recompute(model, "selective")
    narrow_products_pay.cache_clear()
    assert gradients(model, next_token_loss(model, ids, ids.roll(-1, 1)))
