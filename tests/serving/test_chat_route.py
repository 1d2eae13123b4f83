"""Conversations over HTTP, asked for by OpenAI's own client."""

import json
from typing import Any

import pytest

from tests.serving.conftest import Live

ASK = [{"role": "user", "content": "Where is the river?"}]


def test_whole_and_streamed_are_the_same(live: Live) -> None:
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 24, "seed": 5, "temperature": 0.7}
    whole = live.client.chat.completions.create(**asked)
    assert whole.object == "chat.completion"
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.completion_tokens <= 24
    chunks = list(live.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    first, *middle, last, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert first.choices[0].delta.content is None
    assert all(chunk.choices[0].delta.role is None for chunk in (*middle, last))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in middle) == whole.choices[0].message.content
    assert not last.choices[0].delta.content
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert all(chunk.choices[0].finish_reason is None and chunk.usage is None for chunk in (first, *middle))
    assert not usage.choices
    assert usage.usage.completion_tokens == whole.usage.completion_tokens
    assert usage.usage.prompt_tokens_details.cached_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def create(live: Live, **asked: Any) -> Any:
    given = {"model": "tiny", "messages": ASK, "max_tokens": 12, "temperature": 0, **asked}
    return live.client.chat.completions.create(**given)


def test_seeds(live: Live) -> None:
    drawn = [create(live, temperature=1.0, seed=seed).choices[0].message.content for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 2


def test_several_answers_and_their_stream(live: Live) -> None:
    asked = {"n": 3, "temperature": 1.0, "seed": 9}
    whole = create(live, **asked)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    roles = [0, 0, 0]
    for chunk in create(live, **asked, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role is not None
    assert streamed == texts
    assert roles == [1, 1, 1]


def test_logprobs(live: Live) -> None:
    choice = create(live, logprobs=True, top_logprobs=3, extra_body={"ignore_eos": True}).choices[0]
    entries = choice.logprobs.content
    assert bytes(b for entry in entries for b in entry.bytes).decode("utf-8", "replace") == choice.message.content
    assert len(entries) == 12
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == entry.logprob  # greedy
    streamed = create(live, logprobs=True, top_logprobs=3, stream=True, extra_body={"ignore_eos": True})
    again = [e for chunk in streamed for c in chunk.choices if c.logprobs for e in c.logprobs.content]
    assert [e.logprob for e in again] == [e.logprob for e in entries]


def test_stop_and_lengths(live: Live) -> None:
    text = create(live, max_tokens=40, extra_body={"ignore_eos": True}).choices[0].message.content
    stop = text[6:9]
    cut = create(live, max_tokens=40, stop=[stop, "never there"], extra_body={"ignore_eos": True}).choices[0]
    assert cut.message.content == text[: text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.stop_reason == stop
    longest = create(live, max_completion_tokens=7, max_tokens=None, extra_body={"ignore_eos": True})
    assert (longest.usage.completion_tokens, longest.choices[0].finish_reason) == (7, "length")
    shortest = create(live, max_tokens=30, temperature=1.0, extra_body={"min_tokens": 30})
    assert shortest.usage.completion_tokens == 30
    full = create(live, max_tokens=100_000, extra_body={"ignore_eos": True})
    assert full.choices[0].finish_reason == "length"
    assert full.usage.total_tokens == 1024


def test_bias_and_other_settings(live: Live) -> None:
    only = live.service.tokenizer.encode("a")[0]
    assert create(live, logit_bias={str(only): 100}).choices[0].message.content == "a" * 12
    settings = {"top_k": 5, "min_p": 0.01, "typical_p": 0.9, "repetition_penalty": 1.1, "stop_token_ids": [only]}
    create(live, temperature=1, frequency_penalty=0.5, presence_penalty=0.5, top_p=0.9, extra_body=settings)
    fields = {"user": "u", "parallel_tool_calls": True, "store": False, "metadata": {"a": "b"}}
    assert create(live, **fields).choices


def test_parts_roles_and_going_on(live: Live) -> None:
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "the river?"}]
    plain = create(live).choices[0].message.content
    assert create(live, messages=[{"role": "user", "content": parts}]).choices[0].message.content == plain
    told = [{"role": "developer", "content": "Be short."}, *ASK]
    assert create(live, messages=told).usage.prompt_tokens > create(live).usage.prompt_tokens
    begun = [*ASK, {"role": "assistant", "content": "The river is"}]
    body = {"messages": begun, "add_generation_prompt": False}
    shown = live.post("/tokenize", body | {"continue_final_message": True}).json()["tokens"]
    assert live.service.tokenizer.decode(shown).endswith("assistant\nThe river is")
    assert create(live, messages=begun, extra_body={"continue_final_message": True}).usage.prompt_tokens == len(shown)


def test_usage_in_every_chunk(live: Live) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(create(live, stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] > 0


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "what it does",
            "parameters": {
                "type": "object",
                "properties": {"place": {"enum": ["river", "hill"]}},
                "required": ["place"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("look", "walk")
]


@pytest.mark.parametrize("stream", [False, True])
def test_tools_that_must_be_called(live: Live, stream: bool) -> None:
    named = {"type": "function", "function": {"name": "walk"}}
    answer = create(live, tools=TOOLS, tool_choice=named, max_tokens=200, temperature=1.0, seed=4, stream=stream)
    if stream:
        chunks = [choice for chunk in answer for choice in chunk.choices]
        calls, reason = [call for c in chunks for call in c.delta.tool_calls or ()], chunks[-1].finish_reason
    else:
        calls, reason = answer.choices[0].message.tool_calls, answer.choices[0].finish_reason
    assert reason == "tool_calls"
    [call] = calls
    assert call.function.name == "walk"
    assert json.loads(call.function.arguments)["place"] in ("river", "hill")
    required = create(live, tools=TOOLS, tool_choice="required", max_tokens=200, temperature=1.0)
    [call] = required.choices[0].message.tool_calls
    assert call.function.name in ("look", "walk")
    result = {"role": "tool", "tool_call_id": call.id, "content": "wet"}
    after = [*ASK, required.choices[0].message.model_dump(), result]
    assert create(live, messages=after, tools=TOOLS).choices[0].message.content is not None
    assert create(live, tools=TOOLS, tool_choice="none").usage.prompt_tokens == create(live).usage.prompt_tokens


def test_json_answers(live: Live) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "number", "schema": schema | {"additionalProperties": False}},
    }
    answer = create(live, response_format=wanted, max_tokens=200, temperature=1.0, seed=1).choices[0]
    assert isinstance(json.loads(answer.message.content)["n"], int)
    assert answer.finish_reason == "stop"
    choice = {"structured_outputs": {"choice": ["river", "hill"]}}
    assert create(live, extra_body=choice).choices[0].message.content in ("river", "hill")
    digits = {"structured_outputs": {"regex": "[0-9]{4}"}}
    assert create(live, extra_body=digits).choices[0].message.content.isdecimal()
