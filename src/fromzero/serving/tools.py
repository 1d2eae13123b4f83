"""Calls of tools: how a family of models writes them, found in what one says, and demanded of it."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fromzero.inference.answer import split_at_stop
from fromzero.serving.schema import Described
from fromzero.tokenizer import ChatTemplate


@dataclass(frozen=True)
class ToolStyle:
    """What stands around a call, and how its arguments are named."""

    begin: str
    end: str = ""
    arguments: str = "arguments"
    several: bool = False
    """Whether a list of calls follows, not one."""

    def schema(self, tools: Sequence[Described]) -> dict[str, Any]:
        """What a call of one of these tools looks like, as JSON Schema."""
        calls = [self._call(tool) for tool in tools]
        one = calls[0] if len(calls) == 1 else {"anyOf": calls}
        return {"type": "array", "items": one, "minItems": 1, "maxItems": len(tools)} if self.several else one

    def _call(self, tool: Described) -> dict[str, Any]:
        properties = {"name": {"const": tool.name}, self.arguments: tool.parameters or {"type": "object"}}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


HERMES = ToolStyle("<tool_call>", "</tool_call>")
MISTRAL = ToolStyle("[TOOL_CALLS]", several=True)
LLAMA = ToolStyle("", arguments="parameters")


def style_of(template: ChatTemplate) -> ToolStyle:
    """How calls are written by a model with this template: as Hermes and Qwen, Mistral, or Llama 3 do."""
    source = str(template.source)
    if HERMES.begin not in source and MISTRAL.begin in source:
        return MISTRAL
    return LLAMA if HERMES.begin not in source and '"parameters"' in source else HERMES


class ToolReader:
    """Parts what a model says, piece by piece, into words and calls."""

    def __init__(self, style: ToolStyle, inside: bool = False) -> None:
        """inside: the first call has begun already."""
        self._style, self._held, self._inside, self._plain = style, "", inside, False
        self.calls = 0

    def feed(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """(words that are no call, calls that are whole now)."""
        self._held += text
        words, calls = "", list[dict[str, Any]]()
        while self._held:
            if self._inside:
                call, end, rest = self._held.partition(self._style.end) if self._style.end else (self._held, "", "")
                if not end:
                    break
                found = self._calls(call)
                words += "" if found else self._style.begin + call + end  # what only looks like a call is said as it is
                calls, self._inside, self._held = calls + found, False, rest
                continue
            ready, self._held = self._words()
            words += ready
            if not self._inside:
                break
        return words, calls

    def flush(self) -> tuple[str, list[dict[str, Any]]]:
        """What is left at the end of the answer."""
        held, self._held = self._held, ""
        calls = self._calls(held) if self._inside else []
        return ("" if calls else (self._style.begin if self._inside else "") + held), calls

    def _words(self) -> tuple[str, str]:
        """(words to say now, what to hold back); a call may begin here."""
        if not self._style.begin:  # a bare object is a call only where it is the whole answer
            self._inside = not self._plain and self._held.lstrip()[:1] == "{"
            self._plain = self._plain or (not self._inside and bool(self._held.strip()))
            return ("", self._held) if self._inside or not self._plain else (self._held, "")
        ready, held, found = split_at_stop(self._held, [self._style.begin])
        if found is None:
            return ready, held
        self._inside = True
        return ready, self._held[len(ready) + len(found) :]

    def _calls(self, text: str) -> list[dict[str, Any]]:
        """As OpenAI has them; none if it is not JSON of calls."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return []
        found = found if isinstance(found, list) else [found]
        if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in found):
            return []
        made = []
        for call in found:
            given = call.get("arguments", call.get("parameters", {}))
            arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
            function = {"name": call["name"], "arguments": arguments}
            made.append({"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})
        self.calls += len(made)
        return made
