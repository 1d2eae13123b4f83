"""The engine gives what one sequence alone gives, whatever else runs beside it."""

from dataclasses import replace
from random import Random

import pytest

from fromzero.inference import SamplingConfig, generate_tokens
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.request import Request
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Latent
from tests.conftest import Chain

LLAMA = ModelConfig(context=96, layers=3, width=32, heads=4, kv_heads=2, tied=False)
FAMILIES = {
    "llama": LLAMA,
    "gpt2": replace(LLAMA, positions="learned", norm="layer", activation="gelu_tanh", bias=True, kv_heads=None),
    "alibi": replace(LLAMA, positions="alibi"),
    "gemma": replace(LLAMA, window=11, full_every=2, attention_softcap=20.0, qk_norm="head", local_rope_base=5000.0),
    "sinks": replace(LLAMA, window=9, sinks=True),
    "deepseek": replace(LLAMA, kv_heads=None, latent=Latent(kv_rank=16, nope_width=8, rope_width=4, value_width=8)),
}
TIGHT = EngineConfig(cache_tokens=160, page_tokens=4, step_tokens=13, running=4)
"""So little room that prompts come in pieces, and sequences give way to others."""


def requests(count: int, vocab: int) -> list[Request]:
    chance = Random(3)
    shared = [chance.randrange(vocab) for _ in range(20)]
    made = []
    for number in range(count):
        own = [chance.randrange(vocab) for _ in range(chance.randrange(1, 30))]
        prompt = tuple((shared if number % 2 else []) + own)
        sampling = SamplingConfig(temperature=number % 3 / 2, seed=number, max_tokens=chance.randrange(1, 40))
        made.append(Request(str(number), prompt, replace(sampling, ignore_end=True)))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_together_as_alone(family: str, chain: Chain) -> None:
    model = Transformer(FAMILIES[family].with_vocab(chain.tokenizer.vocab_size), seed=2).eval()
    asked = requests(12, chain.tokenizer.vocab_size)
    engine = Engine(model, chain.tokenizer, TIGHT)
    found = engine.answers(asked)
    for request in asked:
        outputs = found[request.id, 0]
        alone = list(generate_tokens(model, request.prompt, request.sampling))
        assert [token for output in outputs for token in output.tokens] == alone, request.id
        assert outputs[-1].reason == "length"
    assert engine.stats.hits > 0
    assert engine.pool.free == engine.pool.count
