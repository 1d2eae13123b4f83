"""Records for tuning, in the forms in which people keep them -> four kinds: conversations, preferences, judgements and
labelled texts.

A form is recognised by the keys of the record and by nothing else; further keys are ignored. What is malformed (keys,
types, roles) raises UserError. What is well-formed but teaches nothing, as data sets of some size always have, raises
Unusable, and is dropped and counted by reason.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fromzero.errors import UserError, nearest
from fromzero.tokenizer.messages import check_messages, check_tools
from fromzero.tokenizer.text import check_unicode

Messages = list[dict[str, Any]]

_SIDES = {"human": "user", "gpt": "assistant", "observation": "tool", "function_response": "tool"}
_SIDES |= {role: role for role in ("system", "user", "assistant", "tool")}
_LETTERS = {"user": "u", "assistant": "a", "tool": "t", "system": ""}
_PROMPT = re.compile("(?:u(?:at+)*a)*u(?:at+)*")  # a question, maybe with what was said before and what tools returned
_YES_NO = {"true": True, "1": True, "false": False, "0": False}


class Unusable(Exception):  # noqa: N818 (no error: the record is dropped)
    """A well-formed record that teaches nothing; carries the reason."""


@dataclass(frozen=True)
class Conversation:
    """What was said, in OpenAI's form, ending with an answer."""

    messages: Messages
    learned: tuple[bool, ...]
    """For each message, whether it is an answer to learn from."""
    tools: list[dict[str, Any]] | None = None
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What it was read from, with what else that says, such as what a right answer holds."""

    @property
    def key(self) -> str:
        """What decides the split: all before the first answer to learn from."""
        return _text(self.messages[: self.learned.index(True)])


@dataclass(frozen=True)
class _Prompted:
    prompt: Messages

    @property
    def key(self) -> str:
        """What decides the split: the prompt."""
        return _text(self.prompt)


@dataclass(frozen=True)
class Preference(_Prompted):
    """Two answers to a prompt, the first of which is better."""

    chosen: Messages
    rejected: Messages
    margin: float | None = None
    """By how much it is better, where that is known."""


@dataclass(frozen=True)
class Judged(_Prompted):
    """An answer to a prompt, and whether it is good (unpaired preference, as KTO learns from)."""

    completion: Messages
    good: bool


@dataclass(frozen=True)
class Labelled:
    """A text and the name of its class."""

    text: str
    label: str

    @property
    def key(self) -> str:
        """What decides the split: the text."""
        return self.text


def as_conversation(record: Mapping[str, Any]) -> Conversation:
    """A conversation from the first of these forms whose keys are there.

    messages: as OpenAI has them; {"role", "content"} each, an assistant's maybe with "weight": 0, to learn nothing
    from it. conversations: ShareGPT's {"from", "value"}, with system beside them or among them. prompt and completion:
    texts or lists of messages; what is in the prompt carries no loss. instruction and output, maybe input, system and
    history: Alpaca's, as a question of instruction, empty line and input. tools: a list, or JSON.
    Raises UserError, and Unusable when turns don't take turns or an answer is empty.
    """
    record = _present(record)
    if "messages" in record:
        messages, learned = _weighed(record["messages"])
    elif "conversations" in record:
        messages, learned = _weighed(_system(record) + _share_gpt(record["conversations"]))
    elif {"prompt", "completion"} <= record.keys():
        prompt = _messages(record["prompt"], "user")
        messages = prompt + _messages(record["completion"], "assistant")
        learned = [i >= len(prompt) for i in range(len(messages))]
    elif {"instruction", "output"} <= record.keys():
        messages = _alpaca(record) + _messages(record["output"], "assistant")
        learned = [i == len(messages) - 1 for i in range(len(messages))]
    else:
        raise _unknown(record, '"messages", "conversations", "prompt" and "completion", or "instruction" and "output"')
    tools = _tools(record)
    messages = check_messages(messages)
    answers = tuple(on and message["role"] == "assistant" for on, message in zip(learned, messages, strict=True))
    _check_turns(messages)
    _check_answers([message for message, on in zip(messages, answers, strict=True) if on])
    return Conversation(messages, answers, tools, record)


def as_preference(record: Mapping[str, Any]) -> Preference:
    """A pair from "chosen" and "rejected", maybe with a "margin", and a prompt in the first of these forms.

    prompt: a text, or messages. instruction, maybe with input: as in `as_conversation`. Neither, or a text although the
    answers are lists of messages: the messages at their beginning that both have in common.
    Raises UserError, and Unusable for equal sides, empty answers, and turns that don't take turns.
    """
    record = _present(record)
    if not {"chosen", "rejected"} <= record.keys():
        raise _unknown(record, '"chosen" and "rejected", and mostly "prompt"')
    chosen, rejected = (_messages(record[side], "assistant") for side in ("chosen", "rejected"))
    whole = all(isinstance(record[side], list) for side in ("chosen", "rejected"))
    if "instruction" in record:
        prompt = _alpaca(record)
    elif "prompt" in record and not (whole and isinstance(record["prompt"], str)):
        prompt = _messages(record["prompt"], "user")
    elif whole:
        shared = _shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    else:
        raise _unknown(record, '"prompt" beside texts as "chosen" and "rejected"')
    if chosen == rejected:
        raise Unusable("equal sides")
    prompt = _checked_prompt(prompt)
    return Preference(prompt, _answer(prompt, chosen), _answer(prompt, rejected), _margin(record.get("margin")))


def as_judged(record: Mapping[str, Any]) -> Judged:
    """An answer from "prompt", "completion" (texts or messages) and "label": true, false, 1 or 0.

    Raises UserError, and Unusable for an empty answer, or turns that don't take turns.
    """
    record = _present(record)
    if not {"prompt", "completion", "label"} <= record.keys():
        raise _unknown(record, '"prompt", "completion" and "label"')
    if (good := _YES_NO.get(str(record["label"]).lower())) is None:
        raise UserError(f'"label" is {record["label"]!r:.50}; it should be true or false')
    prompt = _checked_prompt(_messages(record["prompt"], "user"))
    return Judged(prompt, _answer(prompt, _messages(record["completion"], "assistant")), good)


def as_labelled(record: Mapping[str, Any], text: str = "text", label: str = "label") -> Labelled:
    """A text and its class, from these two keys; a label is a text, a whole number or a boolean.

    Raises UserError, and Unusable when either is empty.
    """
    if missing := [key for key in (text, label) if key not in record]:
        there = ", ".join(map(str, record))[:200]
        raise UserError(f'there is no "{missing[0]}" but {there}; name the keys, or the columns of a headless table')
    words, name = record[text] or "", "" if record[label] is None else record[label]
    if not isinstance(words, str):
        raise UserError(f'"{text}" is {words!r:.50}; it should be a text')
    if not isinstance(name, str | int):
        raise UserError(f'"{label}" is {name!r:.50}; it should be a text or a whole number')
    check_unicode(words, f'"{text}"')
    if not words.strip():
        raise Unusable("empty text")
    if not (name := str(name).strip()):
        raise Unusable("empty label")
    return Labelled(words, name)


def _present(record: Mapping[str, Any]) -> dict[str, Any]:
    """Tables have all columns in all rows; what is None there is not given."""
    return {key: value for key, value in record.items() if value is not None}


def _unknown(record: Mapping[str, Any], needed: str) -> UserError:
    return UserError(f"the record should have {needed}; it has {', '.join(map(str, record))[:200] or 'nothing'}")


def _messages(value: Any, role: str) -> Messages:
    """A text as one message of that role, or messages."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise UserError(f"{value!r:.50} stands where a text or a list of messages should")
    return [_message(message) for message in value]


def _message(message: Any) -> Any:
    """Without what is None, and with parts of text as one text; whatever else is wrong, `check_messages` tells."""
    if not isinstance(message, Mapping):
        return message
    plain, parts = _present(message), message.get("content")
    if isinstance(parts, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
        plain["content"] = "".join(str(part.get("text")) for part in parts)
    return plain


def _weighed(value: Any) -> tuple[Any, list[bool]]:
    """Messages without weights, and for each whether it may be learned."""
    if not isinstance(value, list):
        return value, []
    messages = [_message(message) for message in value]
    weights = [message.pop("weight", 1) if isinstance(message, dict) else 1 for message in messages]
    if strange := [weight for weight in weights if weight not in (0, 1)]:
        raise UserError(f'a message has "weight": {strange[0]!r:.50}; it should be 0 or 1')
    return messages, [weight == 1 for weight in weights]


def _share_gpt(turns: Any) -> Messages:
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise UserError('"conversations" should be a list of {"from": ..., "value": ...}')
    return [_share_gpt_message(turn) if "from" in turn else dict(turn) for turn in turns]


def _share_gpt_message(turn: Mapping[str, Any]) -> dict[str, Any]:
    if (side := turn["from"]) not in _SIDES:
        raise UserError(f'a turn has "from": {side!r:.50}{nearest(str(side), _SIDES)}')
    message = {"role": _SIDES[side], "content": turn.get("value")}
    return message | ({"weight": turn["weight"]} if turn.get("weight") is not None else {})


def _alpaca(record: Mapping[str, Any]) -> Messages:
    """The question of an instruction and its input, and before it the history, pairs of question and answer."""
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UserError('"history" should be a list of [question, answer]')
    parts = [record[key] for key in ("instruction", "input") if record.get(key)]
    if not all(isinstance(part, str) for part in parts):
        raise UserError('"instruction" and "input" should be texts')
    said = [message for q, a in history for message in (*_messages(q, "user"), *_messages(a, "assistant"))]
    return [*_system(record), *said, *_messages("\n\n".join(parts), "user")]


def _system(record: Mapping[str, Any]) -> Messages:
    return _messages(record["system"], "system") if record.get("system") else []


def _tools(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    tools = record.get("tools")
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools
    except (ValueError, RecursionError) as error:
        raise UserError(f'"tools" is a text that is not valid JSON ({error})') from error
    return check_tools(tools) if tools else None


def _checked_prompt(prompt: Messages) -> Messages:
    prompt = check_messages(prompt) if prompt else []
    if not _PROMPT.fullmatch(_turns(prompt)):
        raise Unusable("unbalanced roles")
    return prompt


def _answer(prompt: Messages, answer: Messages) -> Messages:
    """The checked messages of an answer, which ends with the assistant's words."""
    answer = check_messages(answer) if answer else []
    _check_turns(prompt + answer)
    _check_answers([message for message in answer if message["role"] == "assistant"])
    return answer


def _check_turns(messages: Messages) -> None:
    turns = _turns(messages)
    if not turns.endswith("a"):
        raise Unusable("ends without an answer")
    if not _PROMPT.fullmatch(turns[:-1]):
        raise Unusable("unbalanced roles")


def _turns(messages: Messages) -> str:
    return "".join(_LETTERS[message["role"]] for message in messages)


def _check_answers(answers: Sequence[Mapping[str, Any]]) -> None:
    if not answers:
        raise Unusable("no answer to learn from")
    if not all(message.get("content", "").strip() or message.get("tool_calls") for message in answers):
        raise Unusable("empty answer")


def _shared(chosen: Messages, rejected: Messages) -> int:
    """How many messages two conversations have in common at their beginning, before the last of each."""
    shortest = min(len(chosen), len(rejected))
    return next((i for i in range(shortest) if chosen[i] != rejected[i]), max(0, shortest - 1))


def _margin(value: Any) -> float | None:
    try:
        margin = None if value is None else float(value)
    except (TypeError, ValueError):
        margin = math.nan
    if margin is not None and not math.isfinite(margin):
        raise UserError(f'"margin" is {value!r:.50}; it should be a number')
    return margin


def _text(messages: Messages) -> str:
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in messages)
