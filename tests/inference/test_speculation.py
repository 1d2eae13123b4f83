"""Drafts make steps fewer, and answers stay what they are."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.inference import SamplingConfig, generate_tokens
from fromzero.inference.engine import Engine, EngineConfig
from fromzero.inference.request import Output, Request, Sequence
from fromzero.inference.sampling import Sampler
from fromzero.inference.speculate import Speculation
from fromzero.inference.speculate.cost import Costs
from fromzero.inference.speculate.lookup import LONGEST, SHORTEST, PromptLookup
from fromzero.model import Transformer
from tests.conftest import Chain
from tests.inference.test_together import FAMILIES, LLAMA, TIGHT, requests

KINDS = ("lookup", "draft", "ahead")
TIGHTER = replace(TIGHT, cache_tokens=96)


class Free(Costs):
    """A machine on which longer steps cost nothing, so that drafts are as long as may be."""

    def note(self, tokens: int, seconds: float) -> None:
        pass

    def __call__(self, tokens: int) -> float:
        return 1.0


class Linear(Free):
    """One on which they cost as much as single tokens."""

    def __call__(self, tokens: int) -> float:
        return max(1.0, tokens)


def disturbed(model: Transformer, amount: float) -> Transformer:
    """A model that is often of the same opinion."""
    other = Transformer(model.config).eval()
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight, own in zip(other.parameters(), model.parameters(), strict=True):
            weight.copy_(own + amount * own.std().nan_to_num() * torch.randn(own.shape, generator=noise))
    return other


def speculating(
    model: Transformer, chain: Chain, kind: Any, config: EngineConfig = TIGHTER, noise: float = 0.3
) -> Engine:
    draft = disturbed(model, noise) if kind == "draft" else None
    engine = Engine(model, chain.tokenizer, replace(config, speculate=kind, draft_tokens=5), draft)
    assert engine.speculation is not None
    engine.speculation.cost = Free()  # what is drafted does not depend on the machine
    return engine


def speculation_of(engine: Engine) -> Speculation:
    assert engine.speculation is not None
    return engine.speculation


def whole(outputs: list[Output]) -> tuple[Any, ...]:
    """Everything that an answer is."""
    last = outputs[-1]
    noted = [entry for output in outputs for entry in output.logprobs]
    tokens = tuple(token for output in outputs for token in output.tokens)
    assert not noted or tuple(entry.token for entry in noted) == tokens
    rounded = [(e.token, round(e.logprob, 3), [(i, round(p, 3)) for i, p in e.top]) for e in noted]
    return tokens, "".join(output.text for output in outputs), last.reason, last.stop, rounded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_stay_the_same(family: str, kind: str, chain: Chain) -> None:
    config = replace(FAMILIES[family], predict_ahead=3 if kind == "ahead" else 0)
    model = Transformer(config.with_vocab(12), seed=2).eval()
    asked = requests(12, 12)
    engine = speculating(model, chain, kind)
    found = engine.answers(asked)
    for request in asked:
        alone = list(generate_tokens(model, request.prompt, request.sampling))
        assert [token for output in found[request.id, 0] for token in output.tokens] == alone, request.id
        assert found[request.id, 0][-1].reason == "length"
    stats = engine.stats
    assert 0 < stats.accepted <= stats.drafted - (kind != "lookup")
    assert stats.preemptions > 0
    assert stats.steps < stats.generated_tokens
    assert engine.pool.free == engine.pool.count


class Turns:
    """A constraint that follows the answer: even ids and odd ones take turns."""

    done = False

    def __init__(self, vocab: int, odd: bool = False) -> None:
        self.vocab, self.odd = vocab, odd

    def allowed(self) -> Tensor:
        return torch.arange(self.vocab) % 2 == int(self.odd)

    def accept(self, token: int) -> None:
        assert token % 2 == int(self.odd), "a token that was not allowed"
        self.odd = not self.odd

    def copy(self) -> "Turns":
        return Turns(self.vocab, self.odd)


SETTINGS = {
    "penalties": SamplingConfig(temperature=0.7, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.8),
    "filters": SamplingConfig(temperature=1.3, top_k=4, top_p=0.9, min_p=0.05, typical_p=0.9, logit_bias={3: 2.0}),
    "greedy": SamplingConfig(temperature=0, frequency_penalty=0.3),
    "ends": SamplingConfig(temperature=1, stop_ids=(4,), min_tokens=6, n=3),
    "texts": SamplingConfig(temperature=1, n=3, ignore_end=True),
    "several": SamplingConfig(temperature=0.9, n=4, logprobs=3, ignore_end=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_all_settings_go_with_drafts(settings: str, kind: str, chain: Chain) -> None:
    vocab = 5
    model = Transformer(replace(LLAMA, predict_ahead=3).with_vocab(vocab), seed=4).eval()
    stop = tuple(map(chain.tokenizer.decode, ([3, 2], [4, 4, 1]))) if settings == "texts" else ()
    sampling = replace(SETTINGS[settings], max_tokens=30, logprobs=2, stop=stop)
    chance = Random(8)
    asked = []
    for number in range(6):
        prompt = tuple(chance.randrange(vocab) for _ in range(8)) * 2
        own = replace(sampling, seed=number)
        asked.append(Request(f"{number}", prompt, own, prompt_logprobs=number == 2))

    def answered(engine: Engine) -> dict[Any, Any]:
        found: dict[Any, list[Output]] = {}
        for request in asked:
            follows = int(request.id) % 2 and not sampling.ignore_end
            engine.submit(request, Turns(vocab) if follows else None)
        while engine.busy:
            for output in engine.step():
                found.setdefault((output.request, output.index), []).append(output)
        assert all(outputs[0].prompt_logprobs for (name, _), outputs in found.items() if name == "2")
        return {key: whole(outputs) for key, outputs in found.items()}

    engine = speculating(model, chain, kind, EngineConfig(cache_tokens=300, page_tokens=4, step_tokens=40, running=20))
    plain = answered(Engine(model, chain.tokenizer, EngineConfig(cache_tokens=2000)))
    assert answered(engine) == plain
    assert engine.stats.accepted > 0
    reasons = {reason for _, _, reason, _, _ in plain.values()}
    assert ("stop" in reasons) == (settings in ("ends", "texts"))


def counting(**changes: Any) -> Any:
    """A model that counts: after each id it is sure of the next one, modulo 12."""
    model: Any = Transformer(replace(LLAMA, **changes).with_vocab(12), seed=1).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.output.weight.zero_()
            block.feed_forward.down.weight.zero_()
        model.token_embedding.weight.copy_(torch.eye(12, LLAMA.width))
        model.head.weight.copy_(10 * torch.eye(12, LLAMA.width).roll(1, 0))
    return model


@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_an_end_within_a_draft_ends_the_answer_there(kind: str, chain: Chain) -> None:
    model, prompt = counting(), (*range(12), *range(12), 0, 1, 2)
    text = chain.tokenizer.decode([*range(3, 9)])
    sampling = SamplingConfig(temperature=0, max_tokens=40, ignore_end=True, logprobs=0)
    asked = [
        Request("id", prompt, replace(sampling, stop_ids=(9,))),
        Request("text", prompt, replace(sampling, stop=(text[-1],))),
        Request("length", prompt, replace(sampling, max_tokens=6)),
        Request("context", prompt * 3, replace(sampling, max_tokens=80)),
    ]
    engine = speculating(model, chain, kind, EngineConfig(cache_tokens=1000), noise=0)
    found = {name: whole(outputs) for (name, _), outputs in engine.answers(asked).items()}
    assert found["id"][:4] == ((3, 4, 5, 6, 7, 8), text, "stop", 9)
    assert found["text"][:4] == ((3, 4, 5, 6, 7, 8), text[:-1], "stop", text[-1])
    assert found["length"][:4] == ((3, 4, 5, 6, 7, 8), text, "length", None)
    assert (len(found["context"][0]), found["context"][2]) == (LLAMA.context - 3 * len(prompt), "context")
    stats = engine.stats
    assert stats.accepted == stats.accepted_at.total() >= 0.7 * stats.drafted
    assert stats.generated_tokens > 2.5 * stats.steps
    assert stats.drafted_at[1] >= stats.accepted_at[1] >= stats.accepted_at[5] > 0


def checked(engine: Engine, expected: Any) -> None:
    """Compare each draft with what it should be."""
    proposer = speculation_of(engine).proposer
    propose = proposer.propose

    def proposed(asked: Any) -> dict[Sequence, list[int]]:
        drafts = propose(asked)
        for sequence, draft in drafts.items():
            assert draft == expected(list(sequence.tokens), len(draft)), sequence.tokens
        return drafts

    proposer.propose = proposed  # type: ignore[method-assign]


def test_a_draft_model_says_what_it_would_answer(chain: Chain) -> None:
    model = Transformer(LLAMA.with_vocab(12), seed=2).eval()
    engine = speculating(model, chain, "draft")
    draft = disturbed(model, 0.3)
    checked(engine, lambda ids, n: list(generate_tokens(draft, ids, SamplingConfig(temperature=0, max_tokens=n))))
    engine.answers([replace(r, sampling=replace(r.sampling, temperature=0)) for r in requests(8, 12)])
    assert engine.stats.preemptions > 0
    assert 0 < engine.stats.accepted < engine.stats.drafted
    proposer = speculation_of(engine).proposer
    proposer.propose({})
    assert proposer.pool.free == proposer.pool.count  # type: ignore[attr-defined]


def test_heads_guess_as_they_were_trained_to(chain: Chain) -> None:
    model = Transformer(replace(LLAMA, predict_ahead=3).with_vocab(12), seed=2).eval()

    @torch.inference_mode()
    def expected(ids: list[int], count: int) -> list[int]:
        known, x_BTD = len(ids), model.hidden(torch.tensor([ids]))
        padded_BTD = torch.nn.functional.pad(x_BTD[:, : known - 1], (0, 0, 0, 4))
        for head in range(count):
            padded = [*ids, 0, 0, 0][: known + 3]
            made_BTD = model.hidden_ahead(torch.tensor([padded]), padded_BTD)[head]
            ids = [*ids, int(model.head(made_BTD[0, known - 2], model.head_weight).argmax())]
        return ids[known:]

    engine = speculating(model, chain, "ahead", EngineConfig(cache_tokens=2000))
    checked(engine, expected)
    chance = Random(4)
    sampling = SamplingConfig(temperature=0, max_tokens=40, ignore_end=True)
    prompts = [tuple(chance.randrange(12) for _ in range(length)) for length in (1, 2, 3, 9, 20)]
    engine.answers([Request(f"{len(prompt)}", prompt, sampling) for prompt in prompts])
    assert 0 < engine.stats.accepted < engine.stats.drafted


def test_trained_heads_are_believed(chain: Chain) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(LLAMA, layers=1, predict_ahead=3).with_vocab(12), seed=2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        ids = (torch.arange(16) + torch.randint(12, (8, 1))) % 12
        x_BTD = model.hidden(ids)
        found = [x_BTD, *model.hidden_ahead(ids, x_BTD)]
        losses = [
            torch.nn.functional.cross_entropy(model.head(x[:, : 15 - n], model.head_weight).mT, ids[:, n + 1 :])
            for n, x in enumerate(found)
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    engine = speculating(model.eval(), chain, "ahead", EngineConfig(cache_tokens=400))
    sampling = SamplingConfig(temperature=0, max_tokens=60, ignore_end=True)
    outputs = engine.answers([Request("counting", (3, 4, 5), sampling)])["counting", 0]
    assert [token for output in outputs for token in output.tokens] == [(6 + place) % 12 for place in range(60)]
    assert engine.stats.steps <= 20


def outcomes(model: Transformer, sampling: SamplingConfig, prompt: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """The probability of each answer, by the model's own."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(sampling.max_tokens):
        longer: dict[tuple[int, ...], float] = {}
        for answer, probability in found.items():
            sampler = Sampler(sampling, prompt)
            for token in answer:
                sampler.accept(token)
            logits_V = model(torch.tensor([[*prompt, *answer]]))[0, -1]
            ids_N, logits_N = sampler.candidates(logits_V)
            for token, share in zip(ids_N.tolist(), torch.tensor(logits_N).softmax(-1).tolist(), strict=True):
                longer[(*answer, token)] = probability * share
        found = longer
    return found


def surprise(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Pearson's chi-square as standard deviations above its mean; rare outcomes are put together."""
    total = counts.total()
    common = [answer for answer, share in expected.items() if share * total >= 8]
    cells = [(counts[answer], expected[answer] * total) for answer in common]
    rest = total - sum(count for count, _ in cells), total - sum(mean for _, mean in cells)
    statistic = sum((count - mean) ** 2 / mean for count, mean in [*cells, rest] if mean > 1)
    freedom = len(cells)
    return (statistic - freedom) / (2 * freedom) ** 0.5


@torch.inference_mode()
def test_answers_are_distributed_as_without_drafts(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = Transformer(LLAMA.with_vocab(4), seed=3).eval()
    model.head.weight.mul_(12)  # opinions
    sampling = SamplingConfig(temperature=0.9, top_p=0.97, frequency_penalty=0.4, max_tokens=4, ignore_end=True)
    prompt = (1, 3, 2, 1, 3)
    asked = [Request(f"{seed}", prompt, replace(sampling, seed=seed)) for seed in range(1500)]
    expected = outcomes(model, sampling, prompt)

    def surprised(kind: str, trusting: bool = False) -> float:
        engine = speculating(model, chain, kind, EngineConfig(cache_tokens=1000, running=10), noise=0.4)
        if trusting:
            trust(engine, monkeypatch)
        found = engine.answers(asked)
        counts = Counter(tuple(t for output in outputs for t in output.tokens) for outputs in found.values())
        assert trusting or 0.2 < engine.stats.accepted / engine.stats.drafted < 0.98
        assert set(counts) <= set(expected)
        return surprise(counts, expected)

    assert surprised("draft") < 4
    assert surprised("draft", trusting=True) > 20


def trust(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the rule: a drafted token counts already when the sampler might have chosen it."""
    tried: dict[Sampler, Iterator[int]] = {}
    speculation, choose = speculation_of(engine), Sampler.choose
    draft = speculation.draft

    def drafted(running: list[Sequence]) -> None:
        draft(running)
        tried.update({sequence.sampler: iter(sequence.draft) for sequence in running})

    def chosen(self: Sampler, logits_V: Tensor, forbidden: Any = ()) -> int:
        token, guess = choose(self, logits_V, forbidden), next(tried.get(self, iter(())), -1)
        return guess if guess in self.candidates(logits_V)[0].tolist() else token

    monkeypatch.setattr(speculation, "draft", drafted)
    monkeypatch.setattr(Sampler, "choose", chosen)


@pytest.mark.parametrize("seed", range(20))
def test_lookup_finds_the_longest_and_last(seed: int, chain: Chain) -> None:
    chance = Random(seed)
    sampling = SamplingConfig()
    ids = [chance.randrange(3) for _ in range(12)]
    request = Request("one", tuple(ids), sampling)
    sequence, lookup = Sequence(request, 0, Sampler(sampling, ids), 0, ids), PromptLookup()
    for _ in range(12):
        [draft] = lookup.propose({sequence: 7}).values()
        assert draft == looked_up(ids, 7)
        ids += [chance.randrange(3) for _ in range(chance.randrange(4))]


def looked_up(ids: list[int], most: int) -> list[int]:
    for count in range(LONGEST, SHORTEST - 1, -1):
        for end in range(len(ids) - 1, count - 1, -1):
            if ids[end - count : end] == ids[-count:]:
                return [(ids[end:] * most)[place] for place in range(most)]
    return []


class Stubborn:
    """Drafts what never comes."""

    seconds = 0.0

    def propose(self, asked: Any) -> dict[Sequence, list[int]]:
        return {sequence: [11] * most for sequence, most in asked.items()}

    def watch(self, planned: Any) -> None:
        pass


def test_drafts_that_do_not_pay_are_left_out(chain: Chain) -> None:
    model = counting(context=1000)
    sampling = SamplingConfig(temperature=0, max_tokens=400, ignore_end=True, logit_bias={11: -100.0, 0: 10.0})
    request = Request("one", tuple(range(11)) * 3, sampling)
    config = EngineConfig(cache_tokens=1000)

    def counts(cost: Any, proposer: Any = None) -> tuple[int, int]:
        engine = speculating(model, chain, "lookup", config)
        speculation_of(engine).cost = cost
        speculation_of(engine).proposer = proposer or speculation_of(engine).proposer
        engine.answers([request])
        return engine.stats.steps, engine.stats.drafted

    class Dear(Free):
        def __call__(self, tokens: int) -> float:
            return 1 + 0.3 * (tokens - 1)

    assert counts(Linear()) == (400, 0)
    assert counts(Free())[0] < 80
    steps, drafted = counts(Dear(), Stubborn())
    assert steps == 400
    assert 0 < drafted < 30
    assert counts(Dear())[0] < 90


def test_shares_are_the_best_there_are(chain: Chain) -> None:
    model = Transformer(LLAMA.with_vocab(12), seed=2).eval()
    speculation, chance = speculation_of(speculating(model, chain, "lookup")), Random(2)

    class Bent(Free):
        def __call__(self, tokens: int) -> float:
            return 3 + 0.5 * tokens + (2 if tokens > 5 else 0)

    speculation.cost = cost = Bent()
    for _ in range(20):
        pair = [Sequence(request, 0, Sampler(request.sampling, (1,)), 0, [1]) for request in requests(2, 12)]
        for sequence in pair:
            for _ in range(chance.randrange(5)):
                speculation.note(sequence, 4, chance.randrange(5))
        rates = [speculation._rate(sequence).value for sequence in pair]

        def speed(counts: tuple[int, ...]) -> float:
            tokens = [sum(rate**place for place in range(n + 1)) for rate, n in zip(rates, counts, strict=True)]  # noqa: B023
            return sum(tokens) / cost(2 + sum(counts))

        shares = tuple(speculation._shares(dict.fromkeys(pair, 4)).values())
        assert speed(shares) == pytest.approx(max(speed((a, b)) for a in range(5) for b in range(5)))


def test_what_does_not_go_together_is_said(chain: Chain) -> None:
    model = Transformer(LLAMA.with_vocab(12), seed=2)
    for kind, draft, message in [
        ("ahead", None, "needs a model with heads"),
        ("draft", None, "needs a draft model"),
        ("draft", Transformer(LLAMA.with_vocab(13)), "with the same tokenizer"),
    ]:
        config: Any = EngineConfig(cache_tokens=100, speculate=kind)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=message):
            Engine(model, chain.tokenizer, config, draft)
