"""A Jinja environment for templates from strangers: they can format a conversation, and nothing else.

Jinja's own sandbox lists what is forbidden; the escapes of the past were what the list lacked. Here the list says
what is allowed: a few globals, filters and methods. Time and the amount of text are bounded, since a loop in a loop or
a text doubled forty times would otherwise take the process with it.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from fromzero.errors import UserError

MAX_SECONDS = 5.0
MAX_CHARACTERS = 16_000_000  # text made by one rendering, what is thrown away included
MAX_SOURCE = 200_000  # characters; the longest published templates have about 20 thousand
GENERATED, GENERATED_END = "\U0010fff2", "\U0010fff3"  # private-use characters around what the assistant says

_FILTERS = """abs capitalize count default d dictsort first float int items last length list lower map max min reject
    rejectattr reverse round safe select selectattr sort string title trim unique upper"""
_GLOBALS = "range namespace"
_METHODS: dict[type, str] = {
    str: """capitalize count endswith find isalpha isdigit isspace lower lstrip removeprefix removesuffix replace
        rstrip split splitlines startswith strip title upper""",
    dict: "get items keys values",
    list: "count index",
    LoopContext: "cycle changed depth depth0 first index index0 last length nextitem previtem revindex revindex0",
}


class _Budget:
    def __init__(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.characters = MAX_CHARACTERS


_budget: ContextVar[_Budget | None] = ContextVar("template budget", default=None)


@contextlib.contextmanager
def _new_budget() -> Iterator[None]:
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def _spend(characters: int = 0) -> bool:
    """Take from the budget of the rendering under way; always true, so that it can stand in a condition."""
    if (budget := _budget.get()) is not None:
        budget.characters -= characters
        if budget.characters < 0:
            raise SecurityError(f"it makes more than {MAX_CHARACTERS} characters")
        if time.monotonic() > budget.deadline:
            raise SecurityError(f"it runs longer than {MAX_SECONDS} seconds")
    elif characters > MAX_CHARACTERS:  # a constant, while the template is compiled
        raise SecurityError(f"it makes more than {MAX_CHARACTERS} characters")
    return True


def _finalize(value: Any) -> Any:
    _spend(len(value) if isinstance(value, str) else 0)
    return value


def _concat(*parts: Any) -> str:
    texts = [str(part) for part in parts]
    _spend(sum(map(len, texts)))
    return "".join(texts)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    _spend(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


def _join(values: Any, between: str = "", attribute: str | None = None) -> str:
    texts = [str(value if attribute is None else value[attribute]) for value in values]
    _spend(sum(map(len, texts)) + len(texts) * len(between))
    return between.join(texts)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    if indent is not None and not 0 <= indent <= 8:
        raise SecurityError("it indents JSON by more than 8")
    allowed = {name: options[name] for name in ("separators", "sort_keys") if name in options}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **allowed)


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


class _Guards(NodeTransformer):
    """Let every turn of a loop and every `~` spend from the budget."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 (the name that Jinja calls)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("guard_spend")))
        if node.test is not None:
            node.test = nodes.And(_call("guard_spend"), node.test)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
        self.generic_visit(node)
        return _call("guard_concat", *node.nodes)


def _call(name: str, *arguments: nodes.Expr) -> nodes.Call:
    # An attribute of the environment, not a variable: the template can't put something else in its place.
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: what the assistant says, as Hugging Face templates mark it."""

    tags = {"generation"}  # noqa: RUF012 (the attribute that Jinja reads)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        if self.environment.marks_generation:  # type: ignore[attr-defined]
            body = [_text(GENERATED), *body, _text(GENERATED_END)]
        return nodes.Scope(body, lineno=line)


def _text(text: str) -> nodes.Output:
    return nodes.Output([nodes.TemplateData(text)])


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    guard_spend = staticmethod(_spend)
    guard_concat = staticmethod(_concat)

    def __init__(self, marks_generation: bool) -> None:
        self.marks_generation = marks_generation
        # Blocks trimmed, and break and continue: as transformers renders chat templates.
        extensions = [_Generation, "jinja2.ext.loopcontrols"]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_finalize)
        self.filters = {name: self.filters[name] for name in _FILTERS.split()}
        self.filters.update(tojson=_to_json, join=_join, replace=_replace)
        self.globals = {name: self.globals[name] for name in _GLOBALS.split()} | {"raise_exception": _raise_exception}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Guards().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return any(isinstance(obj, kind) and attr in methods.split() for kind, methods in _METHODS.items())

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise SecurityError(f"it reads {attribute!r} of a {type(obj).__name__}")

    def wrap_str_format(self, value: Any) -> None:
        """Jinja lets str.format through with checks of its own; here it is a method like another, and not allowed."""

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str | list) and isinstance(right, str | list):
            _spend(len(left) + len(right))
        elif not all(isinstance(side, int | float) and abs(side) < 2**31 for side in (left, right)):
            raise SecurityError(f"it uses {operator} on something else than small numbers")
        elif operator == "**":
            raise SecurityError("it uses **")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (Jinja's signature)
        _spend()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and getattr(__obj, "__name__", "") == "replace":
            return _replace(owner, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)


def compile_template(source: str, marks_generation: bool) -> Callable[[Mapping[str, Any]], str]:
    """A function that renders the template with some variables, in the sandbox.

    marks_generation: put GENERATED and GENERATED_END around what `{% generation %}` blocks render.
    Raises UserError, when it is compiled or when it renders, for whatever is wrong with the template.
    """
    if len(source) > MAX_SOURCE:
        raise UserError(f"the chat template has {len(source)} characters; more than {MAX_SOURCE} are not read")
    template = _guarded(lambda: _Environment(marks_generation).from_string(source))

    def render(variables: Mapping[str, Any]) -> str:
        with _new_budget():
            text = _guarded(lambda: template.render(**variables))
        if len(text) > MAX_CHARACTERS:
            raise UserError(f"the chat template makes more than {MAX_CHARACTERS} characters; correct it")
        return text

    return render


def _guarded(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"the chat template is not valid at line {error.lineno}: {error.message}") from error
    except SecurityError as error:
        raise UserError(f"the chat template was stopped: {error}; use another template") from error
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template refused the conversation: {error}") from error
    except Exception as error:  # a template is a program: it can fail in every way that Python can
        raise UserError(f"the chat template failed with {type(error).__name__}: {error}; correct it") from error
