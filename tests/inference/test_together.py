"""The engine gives what one sequence alone gives, whatever else runs beside it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
import transformers

from fromzero.errors import UserError
from fromzero.inference import SamplingConfig, generate_tokens
from fromzero.inference.beam import BeamConfig, search_answers
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.paged import PageStore, token_bytes
from fromzero.inference.request import Logprob, Output, Overloaded, Request
from fromzero.interop import save_model
from fromzero.model import EncoderDecoder, ModelConfig, Transformer
from fromzero.model.config import Experts, Latent
from tests.conftest import Chain
from tests.interop.test_families import DECODERS, SPECIAL, random
from tests.interop.test_families import T5 as T5_SHAPE
from tests.t5_peer import t5

LLAMA = ModelConfig(context=96, layers=3, width=32, heads=4, kv_heads=2, tied=False)
FAMILIES = {
    "llama": LLAMA,
    "gpt2": replace(LLAMA, positions="learned", norm="layer", activation="gelu_tanh", bias=True, kv_heads=None),
    "alibi": replace(LLAMA, positions="alibi"),
    "gemma": replace(LLAMA, window=11, full_every=2, attention_softcap=20.0, qk_norm="head", local_rope_base=5000.0),
    "sinks": replace(LLAMA, window=9, sinks=True),
    "deepseek": replace(LLAMA, kv_heads=None, latent=Latent(kv_rank=16, nope_width=8, rope_width=4, value_width=8)),
    "mixtral": replace(LLAMA, experts=Experts(count=6, active=2, width=20)),
    "gpt-j": replace(LLAMA, parallel=True, norm="layer", bias=True),
    "sinusoidal": replace(LLAMA, positions="sinusoidal", norm_placement="post"),
}
TIGHT = EngineConfig(cache_tokens=100, page_tokens=4, step_tokens=13, running=4)
"""So little room that prompts come in pieces, and sequences give way to others."""
PLAIN = SamplingConfig(temperature=0, max_tokens=12, ignore_end=True)


def engine(chain: Chain, config: EngineConfig = TIGHT, shape: ModelConfig = LLAMA) -> Engine:
    model = Transformer(shape.with_vocab(chain.tokenizer.vocab_size), seed=2).eval()
    return Engine(model, chain.tokenizer, config)


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


def tokens(outputs: Sequence[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def empty(engine: Engine) -> bool:
    stats = engine.stats
    return not (engine.busy or stats.pages_held or stats.running or stats.waiting or engine._answers or engine._read)


@pytest.mark.parametrize("family", FAMILIES)
def test_together_as_alone(family: str, chain: Chain) -> None:
    """In a batch, in pieces, from shared pages, put back and begun again: what the plain way gives."""
    used = engine(chain, shape=FAMILIES[family])
    assert isinstance(used.model, Transformer)
    asked = requests(12, chain.tokenizer.vocab_size)
    found = used.answers(asked)
    for request in asked:
        outputs = found[request.id, 0]
        assert tokens(outputs) == list(generate_tokens(used.model, request.prompt, request.sampling)), request.id
        assert outputs[-1].reason == "length"
    stats = used.stats
    assert stats.hits > 0
    assert stats.preemptions > 0
    assert stats.generated_tokens == sum(len(tokens(outputs)) for outputs in found.values())
    assert stats.prompt_tokens == sum(len(request.prompt) for request in asked)
    assert stats.finished == {"length": 12}
    assert empty(used)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral", "qwen3", "deepseek2"])
def test_as_transformers_generates(name: str, tmp_path: Path, chain: Chain) -> None:
    model = random(Transformer(DECODERS[name][1])).eval()
    save_model(model, tmp_path, chain.tokenizer_folder, SPECIAL)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    used = Engine(model, chain.tokenizer, TIGHT)
    asked = [
        replace(r, sampling=replace(r.sampling, temperature=0, max_tokens=12))
        for r in requests(6, chain.tokenizer.vocab_size)
    ]
    found = used.answers(asked)
    for request in asked:
        ids = torch.tensor([request.prompt])
        theirs = peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                               eos_token_id=None, pad_token_id=0)  # fmt: skip
        assert tokens(found[request.id, 0]) == theirs[0, len(request.prompt) :].tolist()


def test_a_prompt_that_was_asked_before_is_found_and_answered_the_same(chain: Chain) -> None:
    used = engine(chain)
    prompt = tuple(range(5, 42))
    first, again, other = (
        used.answers([Request("a", prompt, PLAIN, tenant=tenant)])["a", 0] for tenant in ("x", "x", "y")
    )
    assert tokens(first) == tokens(again) == tokens(other)
    assert (first[-1].cached, again[-1].cached, other[-1].cached) == (0, 36, 0)
    assert again[0].cached == 36


@pytest.mark.parametrize("config", [TIGHT, EngineConfig(cache_tokens=800)])
def test_probabilities_are_those_of_a_plain_forward(config: EngineConfig, chain: Chain) -> None:
    used = engine(chain, config)
    asked = [
        replace(r, prompt_logprobs=number % 2 == 0, sampling=replace(r.sampling, logprobs=3, n=1 + number % 3))
        for number, r in enumerate(requests(8, chain.tokenizer.vocab_size))
    ]
    found = used.answers(asked)
    for request in asked:
        for index in range(request.sampling.n):
            outputs = found[request.id, index]
            ids = [*request.prompt, *tokens(outputs)]
            with torch.inference_mode():
                logprobs_TV = used.model(torch.tensor([ids]))[0].log_softmax(-1)
            noted: list[Logprob | None] = [p for output in outputs for p in output.prompt_logprobs]
            if request.prompt_logprobs:
                assert noted.pop(0) is None
            else:
                assert not noted
            noted += [logprob for output in outputs for logprob in output.logprobs]
            assert len(noted) == len(ids) - (1 if request.prompt_logprobs else len(request.prompt))
            for place, logprob in enumerate(reversed(noted), 2):
                assert logprob is not None
                row_V = logprobs_TV[-place]
                assert logprob.token == ids[1 - place]
                assert logprob.logprob == pytest.approx(float(row_V[logprob.token]), abs=1e-4)
                torch.testing.assert_close(
                    torch.tensor([p for _, p in logprob.top]), row_V.topk(3).values, rtol=0, atol=1e-4
                )
    assert empty(used)


class Fails:
    """A constraint that can't go on after so many tokens."""

    def __init__(self, left: int) -> None:
        self.left = left

    @property
    def done(self) -> bool:
        return False

    def allowed(self) -> torch.Tensor:
        return torch.ones(320, dtype=torch.bool)

    def accept(self, token: int) -> None:
        self.left -= 1
        if not self.left:
            raise UserError("nothing may come next")

    def copy(self) -> "Fails":
        return Fails(self.left)


def test_one_that_cannot_go_on_fails_alone(chain: Chain) -> None:
    used = engine(chain)
    good = Request("good", (5, 6, 7), PLAIN)
    used.submit(good)
    used.submit(Request("bad", (5, 6, 7), replace(PLAIN, n=2, ignore_end=False)), Fails(4))
    found: dict[tuple[str, int], list[Output]] = {}
    while used.busy:
        for output in used.step():
            found.setdefault((output.request, output.index), []).append(output)
    assert isinstance(used.model, Transformer)
    assert tokens(found["good", 0]) == list(generate_tokens(used.model, good.prompt, PLAIN))
    for index in range(2):
        last = found["bad", index][-1]
        assert (last.reason, last.message) == ("error", "nothing may come next")
        assert len(tokens(found["bad", index])) == 3
    assert used.stats.finished == {"length": 1, "error": 2}
    assert empty(used)


def test_cancelled_between_steps(chain: Chain) -> None:
    used = engine(chain)
    for number in range(6):
        used.submit(Request(str(number), tuple(range(30)), replace(PLAIN, n=2), prompt_logprobs=number == 0))
    for number in range(6):
        used.step()
        used.cancel(str(number))
    used.cancel("nobody")
    assert used.stats.finished["cancelled"] == 12
    assert empty(used)


def test_more_requests_than_may_wait_come_in_as_there_is_room(chain: Chain) -> None:
    used = engine(chain, replace(TIGHT, queued=3))
    asked = requests(12, chain.tokenizer.vocab_size)
    assert len(used.answers(asked)) == 12
    for request in asked[:3]:
        used.submit(request)
    with pytest.raises(Overloaded, match="3 requests wait already"):
        used.submit(asked[3])


def test_stops_and_shortest_answers_as_alone(chain: Chain) -> None:
    used = engine(chain)
    assert isinstance(used.model, Transformer)
    plain = list(generate_tokens(used.model, (5, 6, 7), replace(PLAIN, max_tokens=30)))
    stop = plain[8]
    for least in (0, plain.index(stop) + 3):
        sampling = replace(PLAIN, max_tokens=30, stop_ids=(stop,), min_tokens=least)
        outputs = used.answers([Request("a", (5, 6, 7), sampling)])["a", 0]
        expected = list(generate_tokens(used.model, (5, 6, 7), sampling, frozenset([stop])))
        assert tokens(outputs) == expected
        assert len(expected) >= least
        if not least:
            assert (outputs[-1].reason, outputs[-1].stop) == ("stop", stop)


def test_bad_requests_are_refused_before_any_work(chain: Chain) -> None:
    used = engine(chain)
    for request, message in (
        (Request("a", (), PLAIN), "prompt is empty"),
        (Request("a", tuple(range(96)), PLAIN), "96 tokens and the model's context is 96"),
        (Request("a", (5, 320), PLAIN), "the prompt has the id 320; the model knows 0 to 319"),
        (Request("a", (-1,), PLAIN), "the prompt has the id -1"),
        (Request("a", (5,), PLAIN, source=(4,)), "the source has 1 tokens, and the model is no encoder-decoder"),
        (Request("a", (5,), replace(PLAIN, n=300)), "n is 300"),
    ):
        with pytest.raises(UserError, match=message):
            used.submit(request)
    small = engine(chain, replace(TIGHT, cache_tokens=40))
    with pytest.raises(UserError, match="may reach 60 tokens, and the cache holds 40"):
        small.submit(Request("a", tuple(range(20)), replace(PLAIN, max_tokens=40)))
    with pytest.raises(UserError, match="step_tokens"):
        EngineConfig(step_tokens=8, running=9)
    with pytest.raises(UserError, match="page_tokens is 0"):
        EngineConfig(page_tokens=0)
    with pytest.raises(UserError, match="an encoder writes no text"):
        engine(chain, shape=replace(LLAMA, kind="encoder"))
    assert empty(used)


@pytest.mark.parametrize("kind", ["t5 1.0", "t5 1.1", "bart"])
def test_encoder_decoders_answer_to_their_sources(kind: str, chain: Chain) -> None:
    if kind == "bart":
        shape = replace(T5_SHAPE, positions="learned", norm="layer", norm_placement="post", bias=True, logit_scale=1.0)
        model = random(EncoderDecoder(shape)).eval()
    else:
        model = t5(kind.split()[1])[1].eval()
    used = Engine(model, chain.tokenizer, EngineConfig(cache_tokens=48, page_tokens=4, step_tokens=16, running=4))
    chance, asked = Random(1), []
    for number in range(8):
        source = tuple(chance.randrange(2, 60) for _ in range(1 + 3 * number))
        sampling = replace(PLAIN, max_tokens=14, n=1 + number % 2)
        asked.append(Request(str(number), (0,), sampling, source=source, prompt_logprobs=number == 3))
    found = used.answers(asked)
    for request in asked:
        greedy = search_answers(model, [0], BeamConfig(1, 1, 14, stop="full"), source=request.source)[0].tokens
        for index in range(request.sampling.n):
            assert tokens(found[request.id, index]) == greedy
    assert used.stats.preemptions > 0
    assert empty(used)
    assert not used.runner._memories  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="the source has 0 tokens, and the model takes a source of 1 to"):
        used.submit(Request("a", (0,), PLAIN))


@pytest.mark.parametrize("family", ["llama", "deepseek"])
def test_a_cache_in_8_bits_is_as_near_as_it_says(family: str, chain: Chain) -> None:
    shape = FAMILIES[family].with_vocab(chain.tokenizer.vocab_size)
    model = Transformer(shape, seed=2).eval()
    store = PageStore(model, 10, 4, torch.int8)
    assert store.bytes == 40 * token_bytes(shape, torch.int8)
    chance = torch.Generator().manual_seed(0)
    new = [torch.randn(1, heads, 9, width, generator=chance) * 10.0 ** torch.randint(-6, 6, (1, heads, 9, 1))
           for heads, width in shape.cache_shapes]  # fmt: skip
    new[0][:, :, 3] = 0.0
    slots = torch.tensor([39, 3, 4, 17, 0, 21, 22, 9, 30])
    store.write(1, slots, new)
    for given, back in zip(new, store.read(1, slots[None], torch.float32), strict=True):
        assert (given - back).abs().le(given.abs().amax(-1, keepdim=True) / 254 * 1.0001).all()
    for other in (0, 2):
        assert not any(found.any() for found in store.read(other, slots[None], torch.float32))


def test_a_cache_in_8_bits_changes_little_of_what_is_said(chain: Chain) -> None:
    exact, coded = (engine(chain, replace(TIGHT, cache_dtype=dtype)) for dtype in ("float32", "int8"))
    assert coded.store.bytes < 0.4 * exact.store.bytes
    sampling = replace(PLAIN, max_tokens=1, logprobs=0)
    for number, request in enumerate(requests(8, chain.tokenizer.vocab_size)):
        asked = replace(request, prompt_logprobs=True, sampling=sampling, id=str(number))
        ours, theirs = (used.answers([asked])[asked.id, 0][0] for used in (exact, coded))
        for first, second in zip(ours.prompt_logprobs[1:], theirs.prompt_logprobs[1:], strict=True):
            assert first is not None
            assert second is not None
            assert first.logprob == pytest.approx(second.logprob, abs=0.02)


def test_the_cache_is_as_large_as_asked_or_as_memory_allows(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine(chain, EngineConfig()).stats.pages == 8 * 96 // 16
    assert engine(chain, EngineConfig(cache_tokens=100)).stats.pages == 7
    monkeypatch.setattr("fromzero.inference.engine.total_memory_bytes", lambda: 2**20)
    small = engine(chain, EngineConfig())
    page = 16 * token_bytes(small.model.config, torch.float32)
    assert 2**18 - page <= small.store.bytes < 2**18 + page
