"""A Jinja environment for templates from strangers: they can format a conversation, and nothing else.

Jinja's own sandbox lists what is forbidden; the escapes of the past were what the list lacked. Here the list says
what is allowed: a few globals, filters and methods. Time and the amount of text are bounded, since a loop in a loop or
a text doubled forty times would otherwise take the process with it.
"""

import datetime
import functools
import json
import re
import threading
import time
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from types import GeneratorType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from fromzero.errors import UserError
from fromzero.tokenizer.traced import TEMPLATE, concat, generated, join, traced

MAX_SECONDS = 5.0
MAX_CHARACTERS = 16_000_000  # text made by one rendering, what is thrown away included
MAX_SOURCE = 100_000  # characters; the longest published templates have about 20 thousand

_FILTERS = """abs capitalize count default d dictsort first float int items last length list lower map max min reject
    rejectattr reverse select selectattr sort string title trim unique upper"""
_TESTS = """boolean defined divisibleby eq equalto == even false float ge gt greaterthan in integer iterable le lessthan
    lower lt mapping ne none number odd sameas sequence string true undefined upper != > >= < <="""
_METHODS: dict[type, str] = {
    str: """capitalize count endswith find isalpha isdigit isspace join lower lstrip removeprefix removesuffix replace
        rsplit rstrip split splitlines startswith strip title upper""",
    dict: "get items keys values",
    list: "count index",
    LoopContext: "cycle changed depth depth0 first index index0 last length nextitem previtem revindex revindex0",
}
_TIME_FORMAT = re.compile(r"(?:[^%]|%-?[A-Za-z%]){0,100}")


class _Budget(threading.local):
    """What a rendering may still use; a constant that is made while the template is compiled has its own."""

    def renew(self) -> None:
        self.deadline, self.characters = time.monotonic() + MAX_SECONDS, MAX_CHARACTERS

    def __init__(self) -> None:
        self.renew()


_budget = _Budget()


def _spend(characters: int = 0) -> bool:
    """Take from the budget of the rendering under way; always true, so that it can stand in a condition."""
    _budget.characters -= characters
    if _budget.characters < 0:
        raise SecurityError(f"it makes more than {MAX_CHARACTERS} characters")
    if time.monotonic() > _budget.deadline:
        raise SecurityError(f"it runs longer than {MAX_SECONDS} seconds")
    return True


def _made(value: Any) -> Any:
    """What a filter, a method or an operator made, when the budget has room for it."""
    if isinstance(value, str):
        _spend(len(value))
    elif isinstance(value, list | dict):
        _spend(4 * len(value))
        _weigh(value)
    return (_spend() and item for item in value) if isinstance(value, GeneratorType) else value


def _weigh(value: Any) -> Any:
    """The value, if it is short when written out: forty lists, each with the one before in it twice, would not be."""
    weight, todo = 0, [value]
    while todo:
        part = todo.pop()
        weight += 1 + (len(part) if isinstance(part, str) else 0)
        if isinstance(part, Mapping):
            todo += [*part, *part.values()]
        elif isinstance(part, list | tuple | KeysView | ValuesView | ItemsView):
            todo += part
        else:
            continue
        _spend()
        if weight + len(todo) > MAX_CHARACTERS:
            raise SecurityError(f"it makes a list of more than {MAX_CHARACTERS} values and characters")
    return value


def _guard(function: Any) -> Callable[..., Any]:
    """A filter or test of Jinja's that spends from the budget."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _spend()
        return _made(function(*args, **kwargs))

    return guarded


def _finalize(value: Any) -> Any:
    return _spend(len(value) if isinstance(value, str) else 0) and value


def _replace(text: Any, old: Any, new: Any, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    _spend(len(text) + text.count(old) * len(new))
    return text.replace(old, new, count)


def _join(values: Any, between: str = "", attribute: str | None = None) -> str:
    texts = []
    for value in values:
        texts.append(str(value if attribute is None else value[attribute]))
        _spend(len(texts[-1]) + len(between))
    return join(between, texts) if between else concat(texts)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    if not (indent is None or (isinstance(indent, int) and 0 <= indent <= 8)):
        raise SecurityError("it indents JSON by something else than 0 to 8")
    if not all(isinstance(part, str) and len(part) <= 8 for part in options.get("separators") or ()):
        raise SecurityError("it separates JSON by something else than a few characters")
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
    _spend(len(text))
    return text


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime(now: datetime.date | None, form: str) -> str:
    if not _TIME_FORMAT.fullmatch(form):
        raise SecurityError("it asks for a date in a form that is long or unknown")
    return (now or datetime.datetime.now()).strftime(form)


class _Names(Namespace):
    def __repr__(self) -> str:  # Jinja's writes out all that is in it, which can be other namespaces
        return "<Namespace>"


class _Guards(NodeTransformer):
    """Let all that takes time spend from the budget, and make the template's words known as such."""

    def __init__(self, environment: "_Environment") -> None:
        self.environment = environment

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 (the name that Jinja calls)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("guard_spend")))
        if node.test is not None:
            node.test = nodes.And(_call("guard_spend"), node.test)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
        self.generic_visit(node)
        return _call("guard_concat", *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.And:  # noqa: N802
        self.generic_visit(node)
        return nodes.And(_call("guard_spend"), node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        if not isinstance(node.arg, nodes.Const):  # a constant key is only looked up
            self.generic_visit(node)
        else:
            node.node = self.visit(node.node)
        if isinstance(node.arg, nodes.Slice):
            bounds = (node.arg.start, node.arg.stop, node.arg.step)
            return _call("guard_slice", node.node, *(bound or nodes.Const(None) for bound in bounds))
        return node

    def visit_List(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _call("guard_weigh", node)

    visit_Tuple = visit_Dict = visit_List

    def visit_Const(self, node: nodes.Const | nodes.TemplateData) -> nodes.Expr:  # noqa: N802
        text = node.data if isinstance(node, nodes.TemplateData) else node.value
        if not isinstance(text, str):
            return node
        words = self.environment.words
        name = words.setdefault(text, f"word_{len(words)}")
        setattr(self.environment, name, traced(text, TEMPLATE))
        return nodes.EnvironmentAttribute(name)

    visit_TemplateData = visit_Const


def _call(name: str, *arguments: nodes.Expr) -> nodes.Call:
    # An attribute of the environment, not a variable: the template can't put something else in its place.
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: what the assistant says, as Hugging Face templates mark it."""

    tags = {"generation"}  # noqa: RUF012 (the attribute that Jinja reads)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(_call("guard_generated"), [], [], body).set_lineno(line)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(concat)
    guard_spend = staticmethod(_spend)
    guard_concat = staticmethod(lambda *parts: _join(parts))
    guard_slice = staticmethod(lambda value, *bounds: _spend() and _made(value[slice(*bounds)]))
    guard_weigh = staticmethod(_weigh)
    guard_generated = staticmethod(lambda caller: generated(caller()))

    def __init__(self, now: datetime.date | None) -> None:
        # Blocks trimmed, and break and continue: as transformers renders chat templates.
        extensions = [_Generation, "jinja2.ext.loopcontrols"]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_finalize)
        self.words: dict[str, str] = {}  # text in the template -> attribute that holds it
        self.filters = {name: _guard(self.filters[name]) for name in _FILTERS.split()}
        # What `safe` is for, leaving `<` alone, is how it is here anyway.
        self.filters.update(tojson=_to_json, join=_join, replace=_replace, safe=lambda text: text)
        self.tests = {name: _guard(self.tests[name]) for name in _TESTS.split()}
        self.globals = {
            "range": self.globals["range"],
            "namespace": _Names,
            "dict": _guard(lambda *args, **kwargs: dict(*args, **kwargs)),
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: _strftime(now, form),
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Guards(self).visit(super()._parse(source, name, filename))
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
            return _made(super().call_binop(context, operator, left, right))
        if not all(isinstance(side, int | float) and abs(side) < 2**31 for side in (left, right)):
            raise SecurityError(f"it uses {operator} on something else than small numbers")
        if operator == "**":
            raise SecurityError("it uses **")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (Jinja's signature)
        _spend()
        if __obj is _spend:  # most calls are this one
            return True
        if isinstance(__obj, Macro):
            _weigh([args, kwargs])  # it has them as lists, varargs and kwargs
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return _replace(owner, *args, **kwargs)
        if isinstance(owner, str) and name == "join":
            return _join(args[0], owner)
        return _made(super().call(__context, __obj, *args, **kwargs))


def compile_template(source: str, now: datetime.date | None = None) -> Callable[[Mapping[str, Any]], str]:
    """A function that renders the template with some variables, in the sandbox, to a `Traced` text.

    now: the date that the template is told; by default that of each rendering.
    Raises UserError, when it is compiled or when it renders, for whatever is wrong with the template.
    """
    if len(source) > MAX_SOURCE:
        raise UserError(f"the chat template has {len(source)} characters; more than {MAX_SOURCE} are not read")
    _budget.renew()
    template = _guarded(lambda: _Environment(now).from_string(source))

    def render(variables: Mapping[str, Any]) -> str:
        _budget.renew()
        text: str = _guarded(lambda: template.render(**variables))
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
