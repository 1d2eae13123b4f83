"""Speaking through the engine: what the weights are now is what answers, also after they were copied in place."""

import copy
from pathlib import Path

import torch

from fromzero.inference import SamplingConfig
from fromzero.interop import load_model
from fromzero.model.adapters import AdapterConfig, adapters, add_adapters, plain_state
from fromzero.tokenizer import load_tokenizer
from fromzero.tuning.speaker import Speaker

GREEDY = SamplingConfig(temperature=0, max_tokens=12, ignore_end=True, n=1, logprobs=1)


def test_weights_are_taken_over(tiny_model: Path) -> None:
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    prompts = [tokenizer.encode_ordinary(text) for text in ("The story of", "In room 3 there is a long", "A")]
    speaker = Speaker(model, tokenizer)
    first = speaker.say(prompts, GREEDY)
    assert [[a.tokens for a in answers] for answers in first] == [
        [a.tokens for a in answers] for answers in speaker.say(prompts, GREEDY)
    ]
    other = copy.deepcopy(model)
    add_adapters(other, AdapterConfig(rank=4))
    for _, module in adapters(other):
        torch.nn.init.normal_(module.up.weight, std=0.3)
    speaker.sync(plain_state(other))
    for answers, prompt in zip(speaker.say(prompts, GREEDY), prompts, strict=True):
        ids = torch.tensor([[*prompt, *answers[0].tokens]])
        logprobs = other(ids)[0].log_softmax(-1).detach()
        for place, (token, noted) in enumerate(
            zip(answers[0].tokens, answers[0].logprobs, strict=True), len(prompt) - 1
        ):
            assert noted.token == token
            assert abs(noted.logprob - float(logprobs[place, token])) < 2e-4
    speaker.sync(plain_state(model))
    assert speaker.say(prompts, GREEDY)[0][0].tokens == first[0][0].tokens
