"""Calls of tools, as families of models write them, found in text that comes in any pieces."""

import json

import pytest

from fromzero.serving.tools import HERMES, LLAMA, MISTRAL, ToolReader, ToolStyle, style_of
from fromzero.tokenizer import ChatTemplate

CALL = '{"name": "look", "arguments": {"place": "the <hill>"}}'
LLAMA_CALL = '{"name": "look", "parameters": {"place": "the <hill>"}}'
SAID: dict[str, tuple[ToolStyle, str, str, int]] = {
    "one": (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", 1),
    "words and two": (HERMES, f"Well. <tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>!", "Well. \n!", 2),
    "no call": (HERMES, "a < b, <tool> and <tool_", "a < b, <tool> and <tool_", 0),
    "broken call": (HERMES, "<tool_call>{oops</tool_call> so", "<tool_call>{oops</tool_call> so", 0),
    "cut off": (HERMES, "<tool_call>{oops", "<tool_call>{oops", 0),
    "not closed": (HERMES, f"<tool_call>{CALL}", "", 1),
    "list": (MISTRAL, f"[TOOL_CALLS][{CALL}, {CALL}]", "", 2),
    "bare": (LLAMA, LLAMA_CALL, "", 1),
    "bare, later": (LLAMA, f"I say {LLAMA_CALL}", f"I say {LLAMA_CALL}", 0),
    "other JSON": (LLAMA, '{"a": 1}', '{"a": 1}', 0),
}


@pytest.mark.parametrize("case", SAID)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_words_and_calls(case: str, size: int) -> None:
    style, text, words, count = SAID[case]
    reader, said, calls = ToolReader(style), "", []
    for start in range(0, len(text), size):
        more, found = reader.feed(text[start : start + size])
        said, calls = said + more, calls + found
    more, found = reader.flush()
    assert said + more == words
    assert len(calls + found) == reader.calls == count
    for call in calls + found:
        assert call["type"] == "function"
        assert json.loads(call["function"]["arguments"]) == {"place": "the <hill>"}
    assert len({call["id"] for call in calls + found}) == count


def test_families_are_known_by_their_templates() -> None:
    assert style_of(ChatTemplate()) is HERMES
    assert style_of(ChatTemplate("{{ '[TOOL_CALLS]' }}")) is MISTRAL
    assert style_of(ChatTemplate('{{ \'{"name": x, "parameters": {}}\' }}')) is LLAMA
