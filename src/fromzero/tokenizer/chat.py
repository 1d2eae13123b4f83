"""Chat templates: from a list of messages to one text, its token ids, and the mask of the tokens that carry loss."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fromzero.errors import UserError, nearest
from fromzero.tokenizer.sandbox import GENERATED, GENERATED_END, compile_template
from fromzero.tokenizer.text import check_unicode

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

ROLES = ("system", "user", "assistant")
MAX_CONVERSATION = 4_000_000  # characters of content in one conversation
MAX_MESSAGES = 10_000

# Private-use characters that stand for the content of message N while the template is rendered: \U0010fff0N\U0010fff1.
_CONTENT, _CONTENT_END = "\U0010fff0", "\U0010fff1"
_MARKS = re.compile(f"({_CONTENT}[0-9]{{1,6}}{_CONTENT_END}|{GENERATED}|{GENERATED_END})")

Message = Mapping[str, str]


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

    source: the template. variables: what it may use beside `messages` and `add_generation_prompt`, such as bos_token.
    Raises UserError when it does not compile.
    """

    def __init__(self, source: str = CHATML, variables: Mapping[str, str] | None = None) -> None:
        self.source = source
        self.variables = dict(variables or {})
        if _MARKS.search(source) or _CONTENT in source:
            raise UserError("the chat template holds private-use characters U+10FFF0 to U+10FFF3; remove them")
        self._plain = compile_template(source, marks_generation=False)
        self._marked = compile_template(source, marks_generation=True)

    @property
    def marks_generation(self) -> bool:
        """Whether the template says which part is the assistant's; without it there is nothing to train on."""
        return re.search(r"\{%[-+]?\s*generation\b", self.source) is not None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as text, equal to transformers' `apply_chat_template(..., tokenize=False)`.

        messages: {"role": "system", "user" or "assistant", "content": text} each. add_generation_prompt: end with the
        header of an assistant's turn. Raises UserError for a message that is none (naming its index), and for a
        template that fails or tries to leave the sandbox.
        """
        return self._render(self._plain, check_messages(messages), add_generation_prompt)

    def spans(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[Span]:
        """The rendered text in pieces that know who wrote them. They join to what `render` gives.

        The template is rendered with placeholders for the contents, so whatever a user writes can't be mistaken for
        the template's words. Raises UserError when the template changes the contents, so that this can't be known.
        """
        messages = check_messages(messages)
        placeholders = [
            {"role": message["role"], "content": f"{_CONTENT}{i}{_CONTENT_END}"} for i, message in enumerate(messages)
        ]
        marked = self._render(self._marked, placeholders, add_generation_prompt)
        spans = list(_spans(marked, [message["content"] for message in messages]))
        if "".join(span.text for span in spans) != self._render(self._plain, messages, add_generation_prompt):
            raise UserError(
                "the chat template changes the contents of messages, so it is not known which words are whose; "
                "strip blanks around them, or use another template"
            )
        return spans

    def encode_chat(
        self, tokenizer: Encoder, messages: Sequence[Message], add_generation_prompt: bool = False
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation, and for each whether it carries loss.

        Loss is on what the assistant says and on the token that ends its turn: never on a header, never on another's
        words. Only markers that the template writes become special tokens; `<|im_end|>` typed by a user stays text.
        Where the assistant begins to speak, text is cut: its header has the ids that it has as a prompt.
        Raises UserError as `spans` does.
        """
        ids: list[int] = []
        mask: list[bool] = []
        for generated, group in itertools.groupby(
            self.spans(messages, add_generation_prompt), key=lambda span: span.generated
        ):
            new = _encode(tokenizer, list(group))
            ids += new
            mask += [generated] * len(new)
        return ids, mask

    def _render(self, template: Any, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        chat = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        text: str = template({**self.variables, "tools": None, "documents": None, **chat})  # as transformers has them
        return text


def check_messages(messages: Any) -> list[dict[str, str]]:
    """The messages as plain dictionaries. Raises UserError that names the index of the first one that is wrong."""
    if not isinstance(messages, list | tuple) or not messages:
        raise UserError("a conversation should be a list of messages with at least one in it")
    if len(messages) > MAX_MESSAGES:
        raise UserError(f"a conversation has {len(messages)} messages, more than {MAX_MESSAGES}; split it")
    checked = [_check_message(i, message) for i, message in enumerate(messages)]
    if sum(len(message["content"]) for message in checked) > MAX_CONVERSATION:
        raise UserError(f"a conversation has more than {MAX_CONVERSATION} characters; split it")
    return checked


def _check_message(i: int, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise UserError(f"message {i} is a {type(message).__name__}; it should be a mapping with role and content")
    if unknown := set(message) - {"role", "content"}:
        raise UserError(f"message {i} has the key '{min(map(str, unknown))}'; only role and content are read")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UserError(f"message {i} has the role {role!r}{nearest(str(role), ROLES)}")
    if not isinstance(content, str):
        raise UserError(f"message {i} ({role}) has the content {content!r:.50}; it should be a text")
    check_unicode(content, f"message {i} ({role})")
    return {"role": str(role), "content": content}


def _spans(marked: str, contents: Sequence[str]) -> Iterator[Span]:
    """Put the contents where their placeholders are, and read the marks around what the assistant says."""
    generated = False
    for piece in _MARKS.split(marked):
        if piece in (GENERATED, GENERATED_END):
            generated = piece == GENERATED
        elif piece.startswith(_CONTENT) and int(piece[1:-1]) < len(contents):
            yield Span(contents[int(piece[1:-1])], False, generated)
        elif piece:
            yield Span(piece, True, generated)


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
