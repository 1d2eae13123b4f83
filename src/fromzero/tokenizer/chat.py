"""Chat templates: from a list of messages to one text, its token ids, and the mask of the tokens that carry loss."""

import datetime
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fromzero.errors import UserError
from fromzero.tokenizer.messages import Message, check_messages, check_tools, check_variables
from fromzero.tokenizer.sandbox import compile_template
from fromzero.tokenizer.traced import GENERATED, TEMPLATE, by_template, runs

IM_START, IM_END = "<|im_start|>", "<|im_end|>"

# ChatML (OpenAI 2023). The token that ends the assistant's turn is inside the generation block: to stop is something
# that the model has to learn. The line end after it is not.
CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

# What transformers puts behind the message to go on with, to find where it ends; some templates look for these words.
_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "


class Encoder(Protocol):
    """What a tokenizer must offer here."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text -> id."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""


class Span(NamedTuple):
    """A stretch of the rendered text."""

    text: str
    from_template: bool
    """Written by the template, so that special tokens in it are meant; else it is someone's content."""
    generated: bool
    """Said by the assistant, so that it carries loss."""


class ChatTemplate:
    """A Jinja chat template, as tokenizers carry it, rendered in a sandbox.

    source: the template, or a list of {"name", "template"} as configs have it: `tool_use` is for conversations with
    tools, `default` for all others. variables: what they may use beside what `spans` gives, such as bos_token.
    now: the date that `strftime_now` tells; by default that of the rendering.
    Raises UserError when a template does not compile, or none can be chosen.
    """

    def __init__(
        self,
        source: Any = CHATML,
        variables: Mapping[str, str] | None = None,
        now: datetime.date | None = None,
    ) -> None:
        self.source = source
        self.variables = {name: by_template(text) for name, text in (variables or {}).items()}
        self._templates = {name: compile_template(text, now) for name, text in _by_name(source).items()}

    @property
    def marks_generation(self) -> bool:
        """Whether the template says which part is the assistant's; without it there is nothing to train on."""
        return re.search(r"\{%[-+]?\s*generation\b", _by_name(self.source).get("default", "")) is not None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False, **options: Any) -> str:
        """The conversation as text, equal to transformers' `apply_chat_template(..., tokenize=False)`.

        Arguments and errors as in `spans`.
        """
        return "".join(span.text for span in self.spans(messages, add_generation_prompt, **options))

    def spans(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> list[Span]:
        """The rendered text in pieces that know who wrote them.

        messages: {"role": "system", "user", "assistant" or "tool", "content": text} each; an assistant's may have
        `reasoning_content` and `tool_calls` as OpenAI has them, a tool's `name` and `tool_call_id`.
        add_generation_prompt: end with the header of an assistant's turn. tools: functions that the assistant may call,
        as OpenAI describes them. continue_final_message: end where the content of the last message does, so that a
        model goes on with it. variables: for the template, such as enable_thinking.
        Raises UserError for a message that is none (naming its index), and for a template that fails or tries to leave
        the sandbox.
        """
        chat = [_for_template(message) for message in check_messages(messages)]
        if continue_final_message:
            if add_generation_prompt or not isinstance(chat[-1].get("content"), str):
                raise UserError("only a last message with content can be gone on with, and without another header")
            chat[-1]["content"] += _CONTINUE
        given = {
            **{"documents": None, **check_variables(variables)},
            "tools": None if tools is None else check_tools(tools),
            "messages": chat,
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._choose(tools is not None)({**self.variables, **given})
        if continue_final_message:
            text = _until_tag(text)
        return [Span(run, bool(origin & TEMPLATE), bool(origin & GENERATED)) for run, origin in runs(text)]

    def encode_chat(
        self, tokenizer: Encoder, messages: Sequence[Message], add_generation_prompt: bool = False, **options: Any
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation, and for each whether it carries loss. Arguments and errors as in `spans`.

        Loss is on what the assistant says and on the token that ends its turn: never on a header, never on another's
        words. Only markers that the template writes become special tokens; `<|im_end|>` typed by a user stays text, in
        a message as in a tool's description. Where the assistant begins to speak, text is cut: its header has the ids
        that it has as a prompt.
        """
        ids: list[int] = []
        mask: list[bool] = []
        for said, group in itertools.groupby(
            self.spans(messages, add_generation_prompt, **options), key=lambda span: span.generated
        ):
            new = _encode(tokenizer, list(group))
            ids += new
            mask += [said] * len(new)
        return ids, mask

    def _choose(self, with_tools: bool) -> Any:
        return self._templates.get("tool_use" if with_tools else "default") or self._templates["default"]


def _by_name(source: Any) -> dict[str, str]:
    """Name -> template, for the two names that are used."""
    named = {"default": source} if isinstance(source, str) else source
    if isinstance(named, list) and all(isinstance(entry, Mapping) for entry in named):
        named = {entry.get("name"): entry.get("template") for entry in named}
    if not isinstance(named, dict) or not isinstance(named.get("default"), str):
        raise UserError("the chat template is neither a text nor a list of named ones with a default; correct it")
    if not isinstance(named.get("tool_use", ""), str):
        raise UserError("the chat template named tool_use is not a text; correct it")
    return {name: named[name] for name in ("default", "tool_use") if name in named}


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its role as a word of the template, and reasoning also under the name that some read."""
    reasoning = message.get("reasoning_content")
    return {
        **({} if reasoning is None else {"thinking": reasoning}),
        **message,
        "role": by_template(message["role"]),
    }


def _until_tag(text: str) -> str:
    at = text.rfind(_CONTINUE.strip())
    if at < 0:
        raise UserError("the chat template does not show the content of the last message; nothing to go on with")
    # A template that cuts off blanks took the one behind the tag, and would have taken those before it.
    return text[:at] if text.startswith(_CONTINUE, at) else text[:at].rstrip()


def _encode(tokenizer: Encoder, spans: Sequence[Span]) -> list[int]:
    """Ids of spans that follow each other: special tokens where the template wrote them, all between them as text."""
    markers = re.compile("(" + "|".join(re.escape(t) for t in sorted(tokenizer.special_tokens, key=len)[::-1]) + ")")
    ids: list[int] = []
    text = ""
    for span in spans:
        pieces = markers.split(span.text) if span.from_template and tokenizer.special_tokens else [span.text]
        for i, piece in enumerate(pieces):
            if i % 2 == 0:
                text += piece
                continue
            ids += [*tokenizer.encode_ordinary(text), tokenizer.special_tokens[piece]]
            text = ""
    return ids + tokenizer.encode_ordinary(text)
