"""What an answer must look like: response_format, structured_outputs, or a call of a tool."""

import asyncio
from typing import Any

from fromzero.inference.constrain import compile_rule
from fromzero.inference.sampling import Constraint
from fromzero.serving.errors import bad
from fromzero.serving.schema import ChatRequest, Sampled
from fromzero.tokenizer import Tokenizer


async def constraint_of(
    tokenizer: Tokenizer, body: Sampled, goes_on: bool, call: dict[str, Any] | None = None
) -> Constraint | None:
    """The one rule of a request, compiled; call: the schema of a call that is demanded. Raises ApiError, UserError."""
    rules: list[tuple[str, Any]] = [] if call is None else [("schema", call)]
    wanted = body.response_format if isinstance(body, ChatRequest) else None
    if wanted is not None and wanted.type == "json_object":
        rules.append(("schema", {"type": "object"}))
    if wanted is not None and wanted.type == "json_schema":
        if wanted.json_schema is None:
            raise bad("response_format of type json_schema needs json_schema with a schema", "response_format")
        rules.append(("schema", wanted.json_schema.schema_))
    given = body.structured_outputs
    if given is not None:
        named = {"schema": given.json_schema, "regex": given.regex, "choices": given.choice}
        rules += [(name, rule) for name, rule in named.items() if rule is not None]
    if len(rules) > 1:
        raise bad("one answer can follow one rule: of response_format, structured_outputs and a forced tool call")
    if not rules:
        return None
    (name, rule), *_ = rules
    return await asyncio.to_thread(compile_rule, tokenizer, goes_on=goes_on, **{name: rule})
