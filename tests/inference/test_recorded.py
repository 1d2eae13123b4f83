"""Steps of one size at a time give what steps of any size give; on a GPU they are recordings."""

import pytest
import torch

from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.generate import generate_tokens
from fromzero.inference.paged import PageStore, run_spans
from fromzero.inference.recorded import RecordedRunner, recordable
from fromzero.inference.request import Request, Span
from fromzero.inference.sampling import SamplingConfig
from fromzero.model import Transformer
from tests.conftest import Chain
from tests.inference.test_together import FAMILIES

PLACES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
RECORDABLE = [name for name, config in FAMILIES.items() if config.kind == "decoder" and recordable(config)]


@pytest.mark.parametrize("device", PLACES)
@pytest.mark.parametrize("family", RECORDABLE)
def test_as_without_recordings(family: str, device: str, chain: Chain) -> None:
    model = Transformer(FAMILIES[family].with_vocab(chain.tokenizer.vocab_size), seed=3).eval().to(device)
    plain, other = (PageStore(model, 60, 4, torch.float32, device) for _ in range(2))
    runner = RecordedRunner(model, other, most=4)
    tables = [list(range(12 * which, 12 * which + 12)) for which in range(5)]
    done = [0] * 5
    for step in [(9, 3, 0, 0, 0), (1, 1, 7, 1, 0), (1, 1, 1, 0, 2), (1, 1, 1, 1, 1), (0, 0, 1, 0, 0), (1, 1, 1, 1, 1)]:
        spans = []
        for which, count in enumerate(step):
            ids = [(7 * which + place) % 50 for place in range(done[which], done[which] + count)]
            spans += [Span(ids, done[which], tables[which], min(1, len(ids) % 7))] if count else []
            done[which] += count
        expected = run_spans(model, plain, spans).cpu()
        torch.testing.assert_close(runner.run(spans), expected, atol=2e-5, rtol=1e-4)
    assert sorted(size[0] for size in runner._recordings) == [1, 4]


@pytest.mark.parametrize("device", PLACES)
def test_answers_are_those_of_each_alone(device: str, chain: Chain) -> None:
    shape = FAMILIES["llama"].with_vocab(chain.tokenizer.vocab_size)
    model = Transformer(shape, seed=5).eval().to(device)
    engine = Engine(model, chain.tokenizer, EngineConfig(cache_tokens=160, page_tokens=4, step_tokens=13, running=4))
    engine.runner = RecordedRunner(model, engine.store)
    sampling = SamplingConfig(temperature=0, max_tokens=20, ignore_end=True)
    asked = [Request(str(n), tuple(range(1 + n, 8 + 3 * n)), sampling) for n in range(6)]
    found = engine.answers(asked)
    for request in asked:
        tokens = [token for output in found[request.id, 0] for token in output.tokens]
        assert tokens == list(generate_tokens(model, request.prompt, sampling))
