"""Chat templates: from a list of messages to one text, its token ids, and the mask of the tokens that carry loss."""

import datetime
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fromzero.errors import UserError
from fromzero.tokenizer.messages import Message, check_messages, check_tools, check_variables
from fromzero.tokenizer.sandbox import compile_template
from fromzero.tokenizer.traced import ASSISTANT, GENERATED, TEMPLATE, all_from, runs, traced

if TYPE_CHECKING:
    from fromzero.tokenizer.base import Tokenizer

IM_START, IM_END = "<|im_start|>", "<|im_end|>"

# ChatML (OpenAI 2023), with tools as Hermes and Qwen have them: described in the system's turn, called by JSON between
# tags. The token that ends the assistant's turn is inside the generation block: to stop is something that the model has
# to learn. The line end after it is not.
CHATML = """\
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0]['role'] == 'system' -%}
{{- messages[0]['content'] + '\\n\\n' -}}
{%- set messages = messages[1:] -%}
{%- endif -%}
{{- '# Tools\\n\\nYou can call these functions:\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}
{{- '\\n</tools>\\n\\nTo call one, write:\\n<tool_call>\\n' -}}
{{- '{"name": NAME, "arguments": {...}}\\n</tool_call><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- message['content'] or '' -}}
{%- for call in message['tool_calls'] or () -%}
{%- set function = call['function'] or call -%}
{%- set arguments = function['arguments'] or {} -%}
{{- '\\n' if message['content'] or not loop.first else '' -}}
{{- '<tool_call>\\n{"name": ' + function['name'] | tojson + ', "arguments": ' -}}
{{- (arguments if arguments is string else arguments | tojson) + '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{%- elif message['role'] == 'tool' -%}
{{- '<tool_response>\\n' + message['content'] + '\\n</tool_response><|im_end|>' -}}
{%- else -%}
{{- message['content'] + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

# What transformers puts behind the message to go on with, to find where it ends; some templates look for these words.
_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "


class RewrittenError(UserError):
    """A template writes an answer otherwise once others follow it."""


class ChatTemplate:
    """A Jinja chat template, as tokenizers carry it, rendered in a sandbox.

    source: the template, or a list of {"name", "template"} as configs have it: `tool_use` is for conversations with
    tools, `default` for all others. variables: what they may use beside what `render` gives, such as bos_token.
    now: the date that `strftime_now` tells; by default that of the rendering.
    Raises UserError when a template does not compile, or none can be chosen.
    """

    def __init__(
        self, source: Any = CHATML, variables: Mapping[str, str] | None = None, now: datetime.date | None = None
    ) -> None:
        self.source = source
        self.variables = {name: traced(text, TEMPLATE) for name, text in (variables or {}).items()}
        self._templates = {name: compile_template(text, now) for name, text in _by_name(source).items()}

    def marks_generation(self, with_tools: bool = False) -> bool:
        """Whether the template of such conversations says what the assistant's part is, so that there is loss on it."""
        return re.search(r"\{%[-+]?\s*generation\b", _for_tools(_by_name(self.source), with_tools)) is not None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False, **options: Any) -> str:
        """The conversation as text, equal to transformers' `apply_chat_template(..., tokenize=False)`.

        messages: {"role": "system", "user", "assistant" or "tool", "content": text} each; an assistant's may have
        `reasoning_content` and `tool_calls` as OpenAI has them, a tool's `name` and `tool_call_id`.
        add_generation_prompt: end with the header of an assistant's turn.
        options: `tools`, functions that the assistant may call, as OpenAI describes them; `continue_final_message`, to
        end where the content of the last message does, so that a model goes on with it; and any others as variables
        for the template, such as `enable_thinking`.
        Raises UserError for a message that is none (naming its index), and for a template that fails or tries to leave
        the sandbox.
        """
        return str.__str__(self._render(messages, add_generation_prompt, **options))

    def encode_chat(
        self, tokenizer: "Tokenizer", messages: Sequence[Message], add_generation_prompt: bool = False, **options: Any
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation, and for each whether it carries loss. Arguments and errors as in `render`.

        Loss is on what the assistant says and on the token that ends its turn: never on a header, never on another's
        words. Only markers that the template writes become special tokens; `<|im_end|>` typed by a user stays text, in
        a message as in a tool's description. So do added tokens that are not special but that the template writes, such
        as `<tool_call>`, except in the assistant's messages. Where the assistant begins to speak, text is cut: its
        header has the ids that it has as a prompt.
        """
        text = self._render(messages, add_generation_prompt, **options)
        return self._encode(tokenizer, [(piece, bool(said)) for piece, said in runs(text, GENERATED)])

    def encode_learned(
        self, tokenizer: "Tokenizer", messages: Sequence[Message], learned: Sequence[bool] | None = None, **options: Any
    ) -> tuple[list[int], list[bool]]:
        """The same with loss on chosen answers only, and of templates that don't mark what the assistant says as well.

        learned: for each message, whether it carries loss if it is the assistant's; by default all do.
        Without {% generation %}, an answer is what the conversation up to it has more than the one before it with the
        assistant's header, but for blanks behind the marker of its end. Raises UserError too when neither is how the
        whole conversation begins, so that it is not known which tokens carry loss.
        """
        text = self._render(messages, False, **options)
        learned = [True] * len(messages) if learned is None else learned
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not self.marks_generation(options.get("tools") is not None):
            return self._encode(tokenizer, self._found(text, messages, answers, learned, options))
        pieces = list(runs(text, GENERATED))
        if all(learned[i] for i in answers):
            return self._encode(tokenizer, [(piece, bool(said)) for piece, said in pieces])
        if len(answers) != sum(map(bool, (said for _, said in pieces))):
            raise UserError("the chat template does not show each answer apart, so one can't be learned without others")
        left = iter(answers)
        return self._encode(tokenizer, [(piece, bool(said) and learned[next(left)]) for piece, said in pieces])

    def encode_turns(
        self, tokenizer: "Tokenizer", messages: Sequence[Message], learned: Sequence[bool], **options: Any
    ) -> list[tuple[list[int], list[bool]]]:
        """`encode_learned` in as many rows as it takes for each answer to stand behind what a model sees before it.

        One, mostly. Templates that write an answer otherwise once others follow it, as Qwen3's leaves out what was
        thought, get a row for each answer that is learned, in which it is the last. Errors as there.
        """
        try:
            return [self.encode_learned(tokenizer, messages, learned, **options)]
        except RewrittenError:
            last = [i for i, message in enumerate(messages) if message["role"] == "assistant" and learned[i]]
            alone = ([i == j for j in range(i + 1)] for i in last)
            return [self.encode_learned(tokenizer, messages[: len(one)], one, **options) for one in alone]

    def _found(
        self,
        text: str,
        messages: Sequence[Message],
        answers: Sequence[int],
        learned: Sequence[bool],
        options: Mapping[str, Any],
    ) -> Iterator[tuple[str, bool]]:
        """A rendered conversation in pieces, cut around what the assistant says, each with whether it carries loss."""
        done = 0
        for i in answers:
            head = self._render(messages[:i], True, **options) if i else "\0"
            whole = self._render(messages[: i + 1], False, **options)
            if not text.startswith(whole):  # some end all that was said with it
                whole = whole.removesuffix(self.variables.get("eos_token", ""))
            if not (whole.startswith(head) and text.startswith(whole)):
                if not learned[i]:
                    continue
                raise RewrittenError(
                    f"the chat template has no {{% generation %}} and writes message {i} otherwise in the whole "
                    "conversation than at its end, so it is not known which tokens carry loss; mark them in it"
                )
            said = text[len(head) : len(whole)]
            ended = said.rstrip()
            said = ended if all_from(ended[-1:], TEMPLATE) else said
            yield text[done : len(head)], False
            yield said, learned[i]
            done = len(head) + len(said)
        yield text[done:], False

    def _encode(self, tokenizer: "Tokenizer", pieces: Iterable[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
        """Ids of pieces of a rendered text, and for each of them what its piece says of loss."""
        pattern = _markers(tuple(tokenizer.special_tokens), tuple(tokenizer.added_tokens), str(self.source))
        ids: list[int] = []
        mask: list[bool] = []
        for piece, carries in pieces:
            for stretch, special in _cut(piece, pattern):
                ids += tokenizer.encode(stretch, special, later=bool(ids))
            mask += [carries] * (len(ids) - len(mask))
        return ids, mask

    def _render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        chat = [_for_template(message) for message in check_messages(messages)]
        if continue_final_message:
            if add_generation_prompt or "content" not in chat[-1]:
                raise UserError("only a last message with content can be gone on with, and without another header")
            chat[-1]["content"] += _CONTINUE
        given = {**self.variables, "documents": None, **check_variables(variables)}
        given |= {"messages": chat, "add_generation_prompt": add_generation_prompt}
        given["tools"] = None if tools is None else check_tools(tools)
        text: str = _for_tools(self._templates, tools is not None)(given)
        return _until_tag(text) if continue_final_message else text


def _for_tools(templates: Mapping[str, Any], with_tools: bool) -> Any:
    return templates.get("tool_use" if with_tools else "default", templates["default"])


def _by_name(source: Any) -> dict[str, str]:
    """Name -> template, for the two names that are used."""
    named = {"default": source} if isinstance(source, str) else source
    if isinstance(named, list) and all(isinstance(entry, Mapping) for entry in named):
        named = {str(entry.get("name")): entry.get("template") for entry in named}
    if not isinstance(named, dict) or not isinstance(named.get("default"), str):
        raise UserError("the chat template is neither a text nor a list of named ones with a default; correct it")
    if not isinstance(named.get("tool_use", ""), str):
        raise UserError("the chat template named tool_use is not a text; correct it")
    return {name: named[name] for name in ("default", "tool_use") if name in named}


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its role as a word of the template, and reasoning also under the name that some read."""
    for key in ("content", "reasoning_content"):
        if message["role"] == "assistant" and key in message:
            message[key] = traced(message[key], ASSISTANT)
    thinking = {"thinking": message["reasoning_content"]} if "reasoning_content" in message else {}
    return {**thinking, **message, "role": traced(message["role"], TEMPLATE)}


def _until_tag(text: str) -> str:
    at = text.rfind(_CONTINUE.strip())
    if at < 0:
        raise UserError("the chat template does not show the content of the last message; nothing to go on with")
    # A template that cuts off blanks took the one behind the tag, and would have taken those before it.
    return text[:at] if text.startswith(_CONTINUE, at) else text[:at].rstrip()


@functools.lru_cache(maxsize=16)
def _markers(special: tuple[str, ...], added: tuple[str, ...], source: str) -> re.Pattern[str]:
    """Finds special tokens (group 1), and other added tokens that the template knows (group 2), in capitals or not."""
    known = [text for text in added if text in source and text not in special and len(text) > 1]
    groups = ("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) for texts in (special, known))
    return re.compile("|".join(f"({group or '(?!)'})" for group in groups), re.IGNORECASE)


def _cut(text: str, markers: re.Pattern[str]) -> Iterator[tuple[str, Literal["text", "allow"]]]:
    """The text in stretches, in which special tokens are allowed or are text: those that the template did not write.

    Of other added tokens, which a tokenizer finds in any text, the first character stands apart.
    """
    done = start = 0
    while found := markers.search(text, start):
        start, stop = found.span()
        if all_from(text[start:stop], TEMPLATE if found[1] else TEMPLATE | ASSISTANT):
            start = stop
            continue
        first, by_template = next(runs(text[start:stop], TEMPLATE))
        stop = start + (len(first) if found[1] and not by_template else 1)
        yield str.__str__(text[done:start]), "allow"
        yield str.__str__(text[start:stop]), "text"
        done = start = stop
    yield str.__str__(text[done:]), "allow"
