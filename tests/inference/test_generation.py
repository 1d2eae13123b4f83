"""Generation: cached equals uncached, sampling does what it says, text ends where it should."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fromzero.errors import UserError
from fromzero.inference import KVCache, SamplingConfig, generate_text, generate_tokens
from fromzero.inference.sampling import Sampler
from fromzero.model import ModelConfig, Transformer
from fromzero.tokenizer.unigram import Metaspace, UnigramTokenizer
from tests.conftest import Chain

ROTARY = ModelConfig(vocab_size=320, context=48, layers=3, width=32, heads=4, kv_heads=2, tied=False)
LEARNED = replace(ROTARY, positions="learned", norm="layer", activation="gelu_tanh", bias=True, kv_heads=None)
LIVELY = SamplingConfig(temperature=1.0, top_p=0.9, top_k=50, repetition_penalty=1.2, seed=1, max_tokens=40)
PROMPT = [5, 200, 31, 77, 5]


@pytest.mark.parametrize("config", [ROTARY, LEARNED])
@pytest.mark.parametrize("sampling", [SamplingConfig(temperature=0, max_tokens=40), LIVELY])
def test_cached_equals_uncached_token_for_token(config: ModelConfig, sampling: SamplingConfig) -> None:
    model = Transformer(config, seed=4).eval()
    cached = list(generate_tokens(model, PROMPT, sampling))
    assert cached == list(generate_tokens(model, PROMPT, sampling, cached=False))
    assert len(cached) == 40
    assert len(set(cached)) > 1


def test_a_prompt_in_pieces_gives_the_same_logits() -> None:
    model = Transformer(ROTARY).eval()
    ids = torch.arange(20)[None]
    cache = KVCache(ROTARY)
    with torch.inference_mode():
        pieces = [model(ids[:, a:b], cache) for a, b in pairwise((0, 7, 8, 15, 20))]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), rtol=1e-4, atol=1e-5)
        assert cache.position == 20
        cache.reset(8)
        torch.testing.assert_close(model(ids[:, 8:], cache), model(ids)[:, 8:], rtol=1e-4, atol=1e-5)


def test_the_seed_decides() -> None:
    model = Transformer(ROTARY)
    runs = [list(generate_tokens(model, PROMPT, replace(LIVELY, seed=seed))) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_temperature_zero_takes_the_most_likely() -> None:
    sampler = Sampler(SamplingConfig(temperature=0), [])
    assert {sampler.choose(torch.tensor([0.0, 3.0, 2.9])) for _ in range(20)} == {1}


class _Scripted(Transformer):
    """A real model whose logits are overruled, so that it says what the test wants."""

    def __init__(self, script: list[int]) -> None:
        super().__init__(ROTARY)
        self.script = iter(script)

    def forward(self, ids_BT: torch.Tensor, cache: object = None) -> torch.Tensor:
        logits = super().forward(ids_BT, cache)  # type: ignore[arg-type]
        logits[:, -1] = -1e9
        logits[:, -1, next(self.script)] = 0.0
        return logits


def say(chain: Chain, text: str, **options: object) -> tuple[list[str], str]:
    tokenizer = chain.tokenizer
    script = [*tokenizer.encode(text, special="allow"), *tokenizer.encode("never said")]
    result = generate_text(_Scripted(script), tokenizer, [1], SamplingConfig(temperature=0, **options))  # type: ignore[arg-type]
    return list(result), result.reason


def test_text_ends_before_a_stop_text_wherever_tokens_split_it(chain: Chain) -> None:
    pieces, reason = say(chain, "the river STOPPED here", stop=("zzz", "STOP"))
    assert ("".join(pieces), reason) == ("the river ", "stop")
    pieces, _ = say(chain, "the STO river<|im_end|>", stop=("STOP",))
    assert "".join(pieces) == "the STO river"
    pieces, _ = say(chain, "ends with STO<|endoftext|>", stop=("STOP",))
    assert "".join(pieces) == "ends with STO"


def test_characters_come_whole(chain: Chain) -> None:
    pieces, _ = say(chain, "从零👩‍👩‍👧开始<|im_end|>")
    assert "".join(pieces) == "从零👩‍👩‍👧开始"
    assert all("\ufffd" not in piece for piece in pieces)


def test_why_it_ended(chain: Chain) -> None:
    assert say(chain, "one two<|im_end|>") == (say(chain, "one two<|im_end|>")[0], "stop")
    assert say(chain, "a b c d e f g", max_tokens=3)[1] == "length"
    assert say(chain, "a b c d e f g h " * 20)[1] == "context"


def test_bad_requests() -> None:
    model = Transformer(ROTARY)
    with pytest.raises(UserError, match="prompt is empty"):
        list(generate_tokens(model, [], LIVELY))
    with pytest.raises(UserError, match="48 tokens and the model's context is 48"):
        list(generate_tokens(model, [1] * 48, LIVELY))
    for name, value in (("temperature", -1.0), ("top_p", 0.0), ("top_k", -1), ("max_tokens", 0), ("stop", ("",))):
        with pytest.raises(UserError, match=name):
            SamplingConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("goes_on", "expected"), [(False, "ab<|unk|> ab"), (True, " ab<|unk|> ab")])
def test_unknown_words_do_not_end_a_text_whose_first_blank_is_kept_where_it_goes_on(
    goes_on: bool, expected: str
) -> None:
    pieces = [("\u2581ab", -1.0), ("a", -2.0)]
    specials, roles = {"<|endoftext|>": 2, "<|unk|>": 3}, {"bos_token": "<|endoftext|>", "unk_token": "<|unk|>"}
    tokenizer = UnigramTokenizer(pieces, "<|unk|>", specials, roles=roles, metaspace=Metaspace())
    said = generate_text(_Scripted([0, 3, 0, 2]), tokenizer, [2], SamplingConfig(temperature=0), goes_on=goes_on)
    assert said.text() == expected
