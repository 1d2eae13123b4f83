"""Records for tuning, in the forms in which people keep them -> conversations, preferences, judgements, labelled texts.

A form is recognised by the keys of a record and by nothing else; further keys are ignored. What is malformed (keys,
types, roles) raises UserError. What is well-formed but teaches nothing, as some of any large data set, raises Unusable:
it is dropped, and counted by its reason.
"""

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fromzero.errors import UserError, nearest
from fromzero.tokenizer.messages import ROLES, check_messages, check_tools
from fromzero.tokenizer.text import check_unicode

Messages = list[dict[str, Any]]

_ROLES = {role: role for role in ROLES}
_ROLES |= {"human": "user", "gpt": "assistant", "observation": "tool", "function_response": "tool"}
_LETTERS = {"user": "u", "assistant": "a", "tool": "t", "system": ""}
_PROMPT = re.compile("(?:u(?:at+)*a)*u(?:at+)*")  # a question, maybe with what was said before and what tools returned
_YES_NO = {"true": True, "1": True, "false": False, "0": False}


class Unusable(Exception):  # noqa: N818 (no error: the record is dropped)
    """A well-formed record teaches nothing; carries the reason."""


@dataclass(frozen=True)
class Conversation:
    """What was said, in OpenAI's form, ending with an answer."""

    messages: Messages
    learned: tuple[bool, ...]
    """For each message, whether it is an answer to learn from."""
    tools: list[dict[str, Any]] | None = None
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What it was read from, with what else that says, such as what a right answer holds."""


@dataclass(frozen=True)
class Preference:
    """Two answers to a prompt, the first of which is better, and by how much where that is known."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    margin: float | None = None


@dataclass(frozen=True)
class Judged:
    """An answer to a prompt, and whether it is good (unpaired preference, as KTO learns from)."""

    prompt: Messages
    completion: Messages
    good: bool


@dataclass(frozen=True)
class Labelled:
    """A text and the name of its class."""

    text: str
    label: str


def as_conversation(record: Mapping[str, Any]) -> Conversation:
    """A conversation from the first of these forms whose keys are there.

    messages: OpenAI's {"role", "content"}, an assistant's maybe with "weight": 0, to learn nothing from it.
    conversations: ShareGPT's {"from", "value"}, with "system" beside or among them. prompt and completion: texts, or
    lists of messages; nothing is learned from the prompt. instruction and output, maybe input, system and history:
    Alpaca's; the question is the instruction, an empty line and the input. tools: a list, or JSON.
    Raises UserError, and Unusable when turns don't take turns, or nothing or an empty answer is to be learned.
    """
    record = _present(record)
    if "messages" in record:
        messages = _messages(record["messages"])
    elif "conversations" in record:
        messages = _system(record) + _messages(record["conversations"])
    elif {"prompt", "completion"} <= record.keys():
        messages = _silent(_messages(record["prompt"], "user")) + _messages(record["completion"], "assistant")
    elif {"instruction", "output"} <= record.keys():
        messages = _silent(_alpaca(record)) + _messages(record["output"], "assistant")
    else:
        raise _unknown(record, '"messages", "conversations", "prompt" and "completion", or "instruction" and "output"')
    weights = [message.pop("weight", 1) if isinstance(message, dict) else 1 for message in messages]
    if strange := [weight for weight in weights if weight not in (0, 1)]:
        raise UserError(f'a message has "weight": {strange[0]!r:.50}; it should be 0 or 1')
    messages = check_messages(messages)
    learned = [weight == 1 and m["role"] == "assistant" for weight, m in zip(weights, messages, strict=True)]
    _check_turns(messages, [message for message, on in zip(messages, learned, strict=True) if on])
    return Conversation(messages, tuple(learned), _tools(record.get("tools")), record)


def as_preference(record: Mapping[str, Any]) -> Preference:
    """A pair from "chosen" and "rejected", maybe with a "margin", and a prompt in the first of these forms.

    instruction, maybe with input: as in `as_conversation`. prompt: a text, or messages. Neither, or a text although the
    answers are lists of messages: the messages that both begin with.
    Raises UserError, and Unusable for equal sides, empty answers, and turns that don't take turns.
    """
    record = _present(record)
    if not {"chosen", "rejected"} <= record.keys():
        raise _unknown(record, '"chosen" and "rejected", and mostly "prompt"')
    chosen, rejected = (_messages(record[side], "assistant") for side in ("chosen", "rejected"))
    whole = isinstance(record["chosen"], list) and isinstance(record["rejected"], list)
    if "instruction" in record:
        prompt = _alpaca(record)
    elif "prompt" in record and not (whole and isinstance(record["prompt"], str)):
        prompt = _messages(record["prompt"], "user")
    elif whole:
        last = max(0, min(len(chosen), len(rejected)) - 1)
        shared = next((i for i in range(last) if chosen[i] != rejected[i]), last)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    else:
        raise _unknown(record, '"prompt" beside texts as "chosen" and "rejected"')
    if chosen == rejected:
        raise Unusable("equal sides")
    prompt, chosen, rejected = _checked(prompt, chosen, rejected)
    return Preference(prompt, chosen, rejected, _margin(record.get("margin")))


def as_judged(record: Mapping[str, Any]) -> Judged:
    """An answer from "prompt", "completion" (texts or messages) and "label": true, false, 1 or 0.

    Raises UserError, and Unusable for an empty answer, or turns that don't take turns.
    """
    record = _present(record)
    if not {"prompt", "completion", "label"} <= record.keys():
        raise _unknown(record, '"prompt", "completion" and "label"')
    if (good := _YES_NO.get(str(record["label"]).lower())) is None:
        raise UserError(f'"label" is {record["label"]!r:.50}; it should be true or false')
    prompt, completion = _checked(_messages(record["prompt"], "user"), _messages(record["completion"], "assistant"))
    return Judged(prompt, completion, good)


def as_labelled(record: Mapping[str, Any], text: str = "text", label: str = "label") -> Labelled:
    """A text and its class, from these two keys; a label is a text, a whole number or a boolean.

    Raises UserError, and Unusable when either is empty.
    """
    for key, kinds, kind in ((text, str, "a text"), (label, str | int, "a text or a whole number")):
        if key not in record:
            there = ", ".join(map(str, record))[:200]
            raise UserError(f'there is no "{key}" but {there}; name the keys, or the columns of a headless table')
        if not isinstance(record[key], kinds | None):
            raise UserError(f'"{key}" is {record[key]!r:.50}; it should be {kind}')
        if record[key] is None or not str(record[key]).strip():
            raise Unusable(f"empty {'text' if key == text else 'label'}")
    check_unicode(record[text], f'"{text}"')
    return Labelled(record[text], str(record[label]).strip())


def _present(record: Mapping[str, Any]) -> dict[str, Any]:
    """Tables have all columns in all rows; what is None there is not given."""
    return {key: value for key, value in record.items() if value is not None}


def _unknown(record: Mapping[str, Any], needed: str) -> UserError:
    return UserError(f"the record should have {needed}; it has {', '.join(map(str, record))[:200] or 'nothing'}")


def _messages(value: Any, role: str = "") -> Messages:
    """Messages, or a text as one of that role; what is wrong in them, `check_messages` tells."""
    if isinstance(value, str) and role:
        return [{"role": role, "content": value}]
    if not isinstance(value, list):
        raise UserError(f"{value!r:.50} stands where {'a text or ' if role else ''}a list of messages should")
    return [_message(message) if isinstance(message, Mapping) else message for message in value]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """In OpenAI's form, without what is None, and with parts of text as one text."""
    plain = _present(message)
    if "from" in plain:
        if (role := _ROLES.get(side := str(plain["from"]))) is None:
            raise UserError(f'a turn has "from": {side!r:.50}{nearest(side, _ROLES)}')
        weight = {"weight": plain["weight"]} if "weight" in plain else {}
        plain = {"role": role, "content": plain.get("value"), **weight}
    parts = plain.get("content")
    if isinstance(parts, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
        plain["content"] = "".join(str(part.get("text")) for part in parts)
    return plain


def _silent(messages: Messages) -> Messages:
    return [{**message, "weight": 0} if isinstance(message, dict) else message for message in messages]


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


def _tools(tools: Any) -> list[dict[str, Any]] | None:
    try:
        tools = json.loads(tools or "null") if isinstance(tools, str) else tools
    except (ValueError, RecursionError) as error:
        raise UserError(f'"tools" is a text that is not valid JSON ({error})') from error
    return check_tools(tools) if tools else None


def _checked(prompt: Messages, *answers: Messages) -> list[Messages]:
    """The prompt and the answers to it, each of which ends with the assistant's words."""
    asked, *said = [check_messages(part) if part else [] for part in (prompt, *answers)]
    if not _PROMPT.fullmatch(_turns(asked)):
        raise Unusable("unbalanced roles")
    for answer in said:
        _check_turns(asked + answer, [message for message in answer if message["role"] == "assistant"])
    return [asked, *said]


def _check_turns(messages: Messages, answers: Sequence[Mapping[str, Any]]) -> None:
    """Raise Unusable when there is nothing to learn from the answers to all that was said."""
    if not (turns := _turns(messages)).endswith("a"):
        raise Unusable("ends without an answer")
    if not _PROMPT.fullmatch(turns[:-1]):
        raise Unusable("unbalanced roles")
    if not answers:
        raise Unusable("no answer to learn from")
    if not all(message.get("content", "").strip() or message.get("tool_calls") for message in answers):
        raise Unusable("empty answer")


def _turns(messages: Messages) -> str:
    return "".join(_LETTERS[message["role"]] for message in messages)


def _margin(value: Any) -> float | None:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if value is None or math.isfinite(value := float(value)):
            return value
    raise UserError(f'"margin" is {value!r:.50}; it should be a number')
