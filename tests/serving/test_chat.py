"""Conversations over HTTP, asked for by OpenAI's own client."""

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
