"""From what was asked to token ids. Texts are encoded beside the event loop: long ones take time."""

import asyncio
import json
from typing import Any

from fromzero.errors import UserError
from fromzero.serving.errors import ApiError, bad
from fromzero.serving.schema import ChatRequest, Message, TokenizeRequest
from fromzero.tokenizer import ChatTemplate, Tokenizer

_TAKEN = ("self", "tokenizer", "messages", "tools", "add_generation_prompt", "continue_final_message")


async def conversation_ids(tokenizer: Tokenizer, body: ChatRequest | TokenizeRequest, with_tools: bool) -> list[int]:
    """A conversation as its model has them. Raises ApiError and UserError."""
    if (template := tokenizer.chat_template) is None:
        raise ApiError(422, "this model has no chat template; ask /v1/completions, or serve a model tuned for chat")
    options = body.chat_template_kwargs or {}
    if taken := [name for name in _TAKEN if name in options]:
        raise bad(f"'{taken[0]}' is no variable of a chat template; give it as a field", "chat_template_kwargs")
    messages = [_plain(i, message) for i, message in enumerate(body.messages or ())]
    header = body.add_generation_prompt
    if body.continue_final_message and "add_generation_prompt" not in body.model_fields_set:
        header = False
    tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()] if with_tools else None
    return await asyncio.to_thread(_encode, template, tokenizer, messages, header, tools, body, options)


def _encode(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: list[dict[str, Any]],
    header: bool,
    tools: list[dict[str, Any]] | None,
    body: ChatRequest | TokenizeRequest,
    options: dict[str, Any],
) -> list[int]:
    goes_on = body.continue_final_message
    given = {"tools": tools, "continue_final_message": goes_on, **options}
    try:
        ids = template.encode_chat(tokenizer, messages, header, **given)[0]
        if tools and ids == template.encode_chat(tokenizer, messages, header, **{**given, "tools": None})[0]:
            raise bad("this model's chat template has no place for tools; leave them out, or serve another", "tools")
        return ids
    except UserError as error:
        raise bad(str(error), "messages") from None


def _plain(i: int, message: Message) -> dict[str, Any]:
    """A message with the keys that templates know."""
    content = message.content
    text = "".join(part.text for part in content) if isinstance(content, list) else content
    role = "system" if message.role == "developer" else message.role
    plain: dict[str, Any] = {"role": role, "content": text}
    if role == "assistant":
        plain["reasoning_content"] = message.reasoning_content
        plain["tool_calls"] = [_call(i, call.id, call.function) for call in message.tool_calls or ()] or None
    if role == "tool":
        plain |= {"name": message.name, "tool_call_id": message.tool_call_id}
    return {key: value for key, value in plain.items() if value is not None}


def _call(i: int, name: str | None, function: Any) -> dict[str, Any]:
    arguments = function.arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise bad(f"message {i} calls {function.name!r:.80} with arguments that are no JSON object", "messages")
    call = {"type": "function", "function": {"name": function.name, "arguments": arguments}}
    return call if name is None else {"id": name, **call}


async def text_ids(tokenizer: Tokenizer, texts: list[str], around: bool, special: bool) -> list[list[int]]:
    """Texts as ids, each behind what begins a text for this model; special: markers in the text are special tokens."""
    start = [tokenizer.special_tokens[text] for text in tokenizer.prefix] if around else []

    def encode() -> list[list[int]]:
        return [[*start, *ids] for ids in tokenizer.encode_batch(texts, "allow" if special else "text", threads=1)]

    return await asyncio.to_thread(encode)


async def prompts_of(
    tokenizer: Tokenizer,
    given: str | list[str] | list[int] | list[list[int]],
    most: int,
    field: str,
    around: bool = True,
    special: bool = False,
) -> list[list[int]]:
    """A text, texts, ids, or lists of ids: always as lists of ids. Raises ApiError."""
    if isinstance(given, str):
        given = [given]
    if not given or any(item in ("", []) for item in given):
        raise bad(f"the {field} is empty; give at least one token", field)
    if isinstance(given[0], int):
        return [given]
    if len(given) > most:
        raise bad(f"there are {len(given)} texts in {field}; at most {most} are allowed", field)
    if isinstance(given[0], str):
        return await text_ids(tokenizer, given, around, special)
    return given
