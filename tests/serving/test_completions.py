"""Texts that go on, scores of prompts, vectors and tokens over HTTP."""

import base64
from typing import Any

import numpy as np
import pytest
import torch

from fromzero.interop import load_model
from tests.serving.conftest import Live

PROMPT = "The river near the hill"


def create(live: Live, **asked: Any) -> Any:
    return live.client.completions.create(**{"model": "tiny", "prompt": PROMPT, "temperature": 0, **asked})


def test_forms_of_prompts(live: Live) -> None:
    ids = live.service.tokenizer.encode(PROMPT)
    other = live.service.tokenizer.encode("The cloud")
    [text] = [choice.text for choice in create(live).choices]
    assert create(live, prompt=ids).choices[0].text == text
    both = create(live, prompt=[PROMPT, "The cloud"], n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text == text
    assert both.usage.prompt_tokens == len(ids) + len(other)
    lists = create(live, prompt=[ids, other])
    assert [choice.text for choice in lists.choices] == [both.choices[0].text, both.choices[2].text]
    parts = {0: "", 1: ""}
    for chunk in create(live, prompt=[ids, other], stream=True):
        for choice in chunk.choices:
            parts[choice.index] += choice.text
    assert list(parts.values()) == [choice.text for choice in lists.choices]


def test_a_special_token_is_text_unless_it_is_asked_for(live: Live) -> None:
    text = "<|im_end|> The"
    plain = live.post("/tokenize", {"prompt": text}).json()
    special = live.post("/tokenize", {"prompt": text, "parse_special": True}).json()
    assert plain["count"] > special["count"]
    assert live.post("/detokenize", {"tokens": special["tokens"]}).json() == {"prompt": text}
    assert create(live, prompt=text).usage.prompt_tokens == plain["count"]


def test_echo_and_scores_are_those_of_the_model(live: Live) -> None:
    tokenizer = live.service.tokenizer
    rows = [tokenizer.encode(PROMPT), tokenizer.encode("The cloud is silver")]
    answer = create(live, prompt=rows, max_tokens=1, logprobs=1, echo=True, seed=1234)
    model = load_model(live.service.config.model).eval()
    for row, choice in zip(rows, answer.choices, strict=True):
        with torch.inference_mode():
            log_p = model(torch.tensor([row]))[0].log_softmax(-1)
        noted = choice.logprobs
        assert len(noted.token_logprobs) == len(row) + 1
        assert noted.token_logprobs[0] is None
        assert noted.top_logprobs[0] is None
        expected = [float(log_p[i, token]) for i, token in enumerate(row[1:])]
        np.testing.assert_allclose(noted.token_logprobs[1:-1], expected, atol=1e-4)
        for i, top in enumerate(noted.top_logprobs[1:], 1):
            assert max(top.values()) == pytest.approx(float(log_p[i - 1].max()), abs=1e-4)
        assert choice.text.startswith(tokenizer.decode(row))
        assert "".join(noted.tokens[: len(row)]) == tokenizer.decode(row)
        assert noted.text_offset[: len(row)] == tokenizer.decode_with_offsets(row)[1]
    only = create(live, max_tokens=0, logprobs=0, echo=True)
    assert only.choices[0].text == PROMPT
    assert len(only.choices[0].logprobs.tokens) == len(rows[0])


def test_logprobs_of_answers(live: Live) -> None:
    choice = create(live, logprobs=2, max_tokens=9, extra_body={"ignore_eos": True}).choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text or "\ufffd" in choice.text
    assert all(value <= 0 for value in choice.logprobs.token_logprobs)
    streamed = [
        c.choices[0] for c in create(live, logprobs=2, max_tokens=9, stream=True, extra_body={"ignore_eos": True})
    ]
    assert [t for c in streamed for t in c.logprobs.text_offset] == choice.logprobs.text_offset
    assert [t for c in streamed for t in c.logprobs.token_logprobs] == choice.logprobs.token_logprobs


def test_the_best_of_several(live: Live) -> None:
    asked = {"temperature": 1.0, "seed": 3, "max_tokens": 6, "extra_body": {"ignore_eos": True}}
    drawn = create(live, n=5, logprobs=0, **asked).choices
    means = {choice.text: sum(choice.logprobs.token_logprobs) / 6 for choice in drawn}
    best = sorted(means, key=lambda text: -means[text])[:2]
    assert [choice.text for choice in create(live, n=2, best_of=5, **asked).choices] == best


def test_vectors(live: Live) -> None:
    texts = ["The river", "The cloud is silver", "The river"]
    ask = live.client.embeddings.create
    answer = ask(model="tiny", input=texts, encoding_format="float")
    vectors = np.array([entry.embedding for entry in answer.data])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-5)
    coded = ask(model="tiny", input=texts)  # the client asks for base64 and decodes it
    np.testing.assert_allclose([entry.embedding for entry in coded.data], vectors, atol=1e-6)
    raw = live.post("/v1/embeddings", {"input": "The river", "encoding_format": "base64"}).json()
    np.testing.assert_allclose(
        np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4"), vectors[0], atol=1e-5
    )
    ids = live.service.tokenizer.encode("The river")
    np.testing.assert_allclose(
        ask(model="tiny", input=ids, encoding_format="float").data[0].embedding, vectors[0], atol=1e-5
    )
    assert live.post("/v1/embeddings", {"input": "a", "dimensions": 7}).status_code == 400


def test_what_is_known_about_the_model(live: Live) -> None:
    [model] = live.client.models.list().data
    assert model.id == "tiny"
    assert live.client.models.retrieve("tiny").id == "tiny"
    info = live.get("/tokenizer_info").json()
    assert info["eos_token"] == live.service.tokenizer.roles["eos_token"]
    assert info["max_model_len"] == 1024
    assert "im_start" in info["chat_template"]
    assert live.get("/version").json()["version"]
    shown = live.post("/tokenize", {"prompt": "The é", "return_token_strs": True}).json()
    assert len(shown["token_strs"]) == shown["count"]


def test_token_ids_with_the_end_and_log_probabilities_at_the_temperature(live: Live) -> None:
    """Whole and in a stream: what was drawn, id for id, with the log-probabilities that it was drawn by."""
    tokenizer, model = live.service.tokenizer, load_model(live.service.config.model).eval()
    prompt, ends = tokenizer.encode(PROMPT), set(tokenizer.special_tokens.values())
    asked = {"prompt": prompt, "max_tokens": 60, "temperature": 2.0, "top_p": 1.0, "logprobs": 0, "seed": 3, "n": 16}
    given = {"return_token_ids": True}
    whole = create(live, **asked, extra_body=given)
    streamed: list[list[int]] = [[] for _ in range(16)]
    for chunk in create(live, **{**asked, "logprobs": None}, extra_body=given, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.token_ids
    assert [choice.token_ids for choice in whole.choices] == streamed
    assert {choice.finish_reason for choice in whole.choices} == {"stop", "length"}
    for choice in whole.choices:
        assert (choice.token_ids[-1] in ends) == (choice.finish_reason == "stop")
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *choice.token_ids]]))[0, len(prompt) - 1 : -1]
        log_p = (logits / 2.0).log_softmax(-1).gather(1, torch.tensor(choice.token_ids)[:, None])[:, 0]
        np.testing.assert_allclose(choice.logprobs.token_logprobs, log_p.tolist(), atol=1e-4)
    assert not hasattr(create(live).choices[0], "token_ids")
