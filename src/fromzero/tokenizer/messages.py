"""What a conversation and its tools may hold, checked before any template sees them."""

from collections.abc import Iterable, Mapping
from typing import Any

from fromzero.errors import UserError, nearest
from fromzero.tokenizer.text import check_unicode

MAX_CONVERSATION = 4_000_000  # characters in one conversation, and in its tools
MAX_MESSAGES = 10_000
MAX_TOOLS = 1_000
MAX_VALUES = 200_000  # texts, numbers, lists and mappings in one conversation, and in its tools
MAX_DEPTH = 32  # of lists and mappings in each other

_KEYS = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "reasoning_content", "tool_calls"),
    "tool": ("role", "content", "name", "tool_call_id"),
}
ROLES = tuple(_KEYS)

Message = Mapping[str, Any]


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages as plain dictionaries, without keys that are None, which templates take for the text 'None'.

    Raises UserError that names the index of the first one that is wrong.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise UserError("a conversation should be a list of messages with at least one in it")
    if len(messages) > MAX_MESSAGES:
        raise UserError(f"a conversation has {len(messages)} messages, more than {MAX_MESSAGES}; split it")
    copy = _Copy("a conversation", "split it")
    return [_check_message(i, message, copy) for i, message in enumerate(messages)]


def check_tools(tools: Any) -> list[dict[str, Any]]:
    """Tools as OpenAI describes functions, as plain ones. Raises UserError that names the index of a bad one."""
    if not isinstance(tools, list | tuple):
        raise UserError(f"tools are a {type(tools).__name__}; they should be a list of mappings")
    if len(tools) > MAX_TOOLS:
        raise UserError(f"there are {len(tools)} tools, more than {MAX_TOOLS}; offer fewer")
    copy, plain = _Copy("the description of tools", "shorten it"), []
    for i, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UserError(f'tool {i} is not {{"type": "function", "function": {{"name": ..., ...}}}}; correct it')
        plain.append(copy(tool, f"tool {i} ({function['name']:.50})"))
    return plain


def check_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a template, as plain ones. Raises UserError for what is neither JSON nor short enough."""
    copy = _Copy("the variables of a template", "shorten them")
    return {name: copy(value, f"the variable {name!r}") for name, value in variables.items()}


def _check_message(i: int, message: Any, copy: "_Copy") -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(f"message {i} is a {type(message).__name__}; it should be a mapping with role and content")
    role = message.get("role")
    if role not in ROLES:
        raise UserError(f"message {i} has the role {role!r:.50}{nearest(str(role), ROLES)}")
    what, calls = f"message {i} ({role})", message.get("tool_calls")
    _check_keys(what, message, _KEYS[role])
    for key in set(_KEYS[role]) - {"role", "tool_calls"}:
        value, optional = message.get(key), key != "content" or bool(calls)
        if not isinstance(value, str) and not (value is None and optional):
            raise UserError(f"{what} has the {key} {value!r:.50}; it should be a text")
    if not isinstance(calls, list | tuple | None):
        raise UserError(f"{what} has tool_calls that are a {type(calls).__name__}; they should be a list")
    for j, call in enumerate(calls or ()):
        _check_call(f"{what}, tool call {j},", call)
    return {key: copy(value, what) for key, value in message.items() if value is not None}


def _check_call(what: str, call: Any) -> None:
    _check_keys(what, call, ("id", "type", "function", "name", "arguments"))
    function = call.get("function", call)
    if "function" in call:
        _check_keys(f"{what} function", function, ("name", "arguments"))
    if not isinstance(function.get("name"), str):
        raise UserError(f"{what} has no name of a function; add one")
    if not isinstance(function.get("arguments", {}), Mapping | str):
        raise UserError(f"{what} has arguments {function['arguments']!r:.50}; they should be a mapping, or JSON")


def _check_keys(what: str, value: Any, keys: Iterable[str]) -> None:
    if not isinstance(value, Mapping):
        raise UserError(f"{what} is a {type(value).__name__}; it should be a mapping")
    for key in value:
        if key not in keys:
            raise UserError(f"{what} has the key {key!r:.50}{nearest(str(key), keys)}")


class _Copy:
    """Copies values into plain JSON types, so that a template meets no other's methods, and counts what they hold."""

    def __init__(self, whole: str, advice: str) -> None:
        self.whole, self.advice = whole, advice
        self.characters, self.values = MAX_CONVERSATION, MAX_VALUES

    def __call__(self, value: Any, what: str, depth: int = 0) -> Any:
        self._count(value)
        if isinstance(value, str):
            check_unicode(value, what)
            return str.__str__(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if not isinstance(value, Mapping | list | tuple):
            raise UserError(f"{what} holds a {type(value).__name__}; only what JSON has can be told to a template")
        if depth == MAX_DEPTH:
            raise UserError(f"{what} holds lists and mappings more than {MAX_DEPTH} deep; flatten them")
        if not isinstance(value, Mapping):
            return [self(item, what, depth + 1) for item in value]
        if strange := [key for key in value if not isinstance(key, str)]:
            raise UserError(f"{what} has the key {strange[0]!r:.50}, which is not a text; write it as one")
        return {self(key, what): self(item, what, depth + 1) for key, item in value.items()}

    def _count(self, value: Any) -> None:
        self.values -= 1
        self.characters -= len(value) if isinstance(value, str) else 0
        if self.characters < 0:
            raise UserError(f"{self.whole} has more than {MAX_CONVERSATION} characters; {self.advice}")
        if self.values < 0:
            raise UserError(f"{self.whole} has more than {MAX_VALUES} values; {self.advice}")
