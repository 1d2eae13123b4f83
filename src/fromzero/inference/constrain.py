"""What an answer must look like: a JSON schema, a regular expression, or one of some texts.

A rule is a grammar over bytes. llguidance knows at each place of it which tokens of a vocabulary can come next; it is
told here what the tokens of our tokenizers are, and what a rule may cost. V ids of the tokenizer.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromzero.errors import UserError, missing_extra
from fromzero.tokenizer import Tokenizer
from fromzero.tokenizer.text import check_unicode

LONGEST, DEEPEST, MULTIPLE = 1 << 16, 64, 10_000
"""Of a rule: characters, levels, the least common multiple of all multipleOf."""
SEARCHED = 200
"""Most parts of a schema among which the one at fault is looked for."""
LIMITS = {"initial_lexer_fuel": 200_000, "step_lexer_fuel": 100_000, "step_max_items": 20_000}
LIMITS |= {"max_lexer_states": 20_000, "max_grammar_size": 100_000}
"""Some ten milliseconds of a step, some ten megabytes of an answer."""
OPTIONS = {"whitespace_pattern": "( |\\n {0,24})"}
"""JSON in one line or in indented ones; a model can't go on with blanks for ever."""


def compile_rule(
    tokenizer: Tokenizer,
    *,
    schema: Mapping[str, Any] | None = None,
    regex: str | None = None,
    choices: Sequence[str] | None = None,
    goes_on: bool = False,
) -> "Grammar":
    """A rule for answers: one of a JSON schema ({"type": "object"}: any object), a regular expression, some texts.

    goes_on: a blank that begins the answer belongs to it (see Request). The latest rules are kept compiled. Raises
    UserError for one that is not valid, or costs too much.
    """
    if choices is not None:
        if not choices or not all(choices):
            raise UserError("choices must be one or more texts of at least one character")
        regex = "|".join(map(re.escape, choices))
    rule = _schema_text(schema) if regex is None else regex
    if len(rule) > LONGEST:
        raise UserError(f"the rule has {len(rule)} characters; at most {LONGEST} are read")
    check_unicode(rule, "the rule")
    return _compile(tokenizer, rule, regex is None, tokenizer.leading_space and not goes_on).copy()


class Grammar:
    """A rule, followed token by token (see Constraint)."""

    def __init__(self, matcher: Any, ends: Sequence[int], vocab_size: int) -> None:
        self._matcher, self._ends, self._vocab_size = matcher, ends, vocab_size

    @property
    def done(self) -> bool:
        """Whether nothing can follow: the answer is whole."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self) -> Tensor:
        """True for the ids that may come next, (V,), and where the answer is whole, for those that end it."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed_V = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(bool)
        if self._matcher.is_accepting():
            allowed_V[list(self._ends)] = True
        self._check(self.done or bool(allowed_V.any()))
        return torch.from_numpy(allowed_V)

    def accept(self, token: int) -> None:
        """The answer goes on with it; raises UserError if it may not."""
        if token not in self._ends:
            self._check(self._matcher.consume_token(token))

    def copy(self) -> "Grammar":
        """The same at the same place, to try tokens with."""
        return Grammar(self._matcher.deep_copy(), self._ends, self._vocab_size)

    def _check(self, fits: bool) -> None:
        if (cause := self._matcher.get_error()) or not fits:
            stuck = not cause or cause.startswith("NoExtension")
            cause = "no token of the vocabulary fits" if stuck else _cause(cause)
            raise UserError(f"the answer can't go on by its rule: {cause}")


@lru_cache(64)
def _compile(tokenizer: Tokenizer, rule: str, is_json: bool, blank: bool) -> Grammar:
    matcher = _matcher(tokenizer, rule, is_json, blank)
    if matcher.is_error():
        cause, what = _cause(matcher.get_error()), "regular expression"
        if is_json:
            what = f"JSON schema at {_place(tokenizer, json.loads(rule), cause)}"
        raise UserError(f"the {what} can't be followed: {cause}")
    ends = sorted({*tokenizer.special_tokens.values()} - {tokenizer.unknown_id})
    return Grammar(matcher, ends, tokenizer.vocab_size)


def _matcher(tokenizer: Tokenizer, rule: str, is_json: bool, blank: bool) -> Any:
    """blank: the tokens may begin with a blank that the decoded text lacks."""
    library = _library()
    if is_json:
        body = json.dumps(json.loads(rule) | {"x-guidance": OPTIONS}, ensure_ascii=False)
        grammar = "start: " + '" " body | ' * blank + f"body\nbody: %json {body}"
    else:
        body = f"/{library.regex_to_lark(rule, use_ascii='')}/"
        grammar = "start: BODY\nBODY: " + (f'" " {body} | ({body} & ~/ (?s:.*)/)' if blank else body)
    # Without forcing: else llguidance tokenizes at once whatever can't come otherwise, however long that is.
    grammar = '%llguidance {"no_forcing": true}\n' + grammar
    limits = library.LLParserLimits(**LIMITS, verbose_errors=False)
    return library.LLMatcher(_vocabulary(tokenizer), grammar, log_level=0, limits=limits)


@lru_cache(2)
def _vocabulary(tokenizer: Tokenizer) -> Any:
    """With an end of its own, which no model has: `Grammar` allows ours, and some tokenizers have none."""
    tokens = [*(token or b"" for token in tokenizer.tokens), b"<end>"]  # those without bytes are never allowed
    special = [*tokenizer.special_tokens.values(), tokenizer.vocab_size]
    given = SimpleNamespace(tokens=tokens, special_token_ids=special, eos_token_id=special[-1], bos_token_id=None)
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(given))


def _place(tokenizer: Tokenizer, schema: dict[str, Any], cause: str) -> str:
    """The innermost part of a schema that alone fails in the same way."""
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    parts = [(path, part) for path, part in _parts(schema) if path and isinstance(part, dict)]
    for path, part in parts[::-1] if len(parts) <= SEARCHED else ():
        matcher = _matcher(tokenizer, json.dumps(shared | part), is_json=True, blank=False)
        if matcher.is_error() and _cause(matcher.get_error()) == cause:
            return _shown(path)
    return "its root"


def _schema_text(schema: Any) -> str:
    """It as JSON. Raises UserError for what costs too much, or is no schema."""
    if not isinstance(schema, Mapping):
        raise UserError("the JSON schema must be an object")
    multiples = [1]
    for count, (path, part) in enumerate(_parts(schema)):
        if count > LONGEST or len(path) > DEEPEST:
            raise UserError(f"the JSON schema has more than {LONGEST} parts or {DEEPEST} levels at {_shown(path)}")
        if isinstance(part, float) and not math.isfinite(part):
            raise UserError(f"the JSON schema has a number that is not finite at {_shown(path)}")
        if path[-1:] == ("multipleOf",) and isinstance(part, int | float):
            digits = "".join(map(str, Decimal(str(part)).normalize().as_tuple().digits))
            multiples.append(int(digits) or 1)
            if math.lcm(*multiples) > MULTIPLE:  # one state for each remainder
                raise UserError(f"the JSON schema at {_shown(path)} has too many digits to be followed; leave it out")
    return json.dumps(schema, ensure_ascii=False)


def _parts(schema: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value in it with its path, outer ones first."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), schema)]
    for path, part in waiting:
        yield path, part
        inner = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else ()
        waiting += [((*path, name), value) for name, value in inner]


def _shown(path: Sequence[Any]) -> str:
    return "".join(f"/{name}" for name in path)[:200]


def _cause(message: str) -> str:
    """The part of a message that says why."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["unknown"]
    found = next((line[7:] for line in lines if line.startswith("error: ")), lines[0])
    return found.rpartition("failed to compile JSON schema: ")[2][:300]


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise missing_extra("llguidance", "serve") from error
    return llguidance
