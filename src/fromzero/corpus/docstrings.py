"""Python source -> its documentation, read from the syntax tree: nothing is imported and nothing runs.

Besides docstrings it knows the calls by which numpy and torch document what is written in C: `add_newdoc(place, name,
text)` and `add_docstr(object, text)`, with torch's templates filled in.
"""

import ast
import contextlib
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Classes = dict[str, ast.ClassDef]
_SIGNATURE = re.compile(r"\s*([\w.]*)\(([^\n]*)\)[^\n()]*(?:\n|\Z)(?:\s*--\s*\n)?")
_NAME = re.compile(r"\b([A-Za-z_]\w*)(?=\s*[,=:\[\])]|\s*$)")
_DEFAULT = re.compile(r"=[^,\[\]]*")
_FORMAT = re.compile(r"\{\{|\}\}|\{(\w+)\}")
_ROLE = re.compile(r":[\w:]+:`~?([^`<]*?)(?:\s*<[^`]*>)?`")
_SENTENCE = re.compile(r"(.+?[.!?])(?:\s|$)", re.DOTALL)
_NOT_A_SUMMARY = ("see ", "alias ", "deprecated", "this function is deprecated", "same as ", "todo", "return self")
MIN_WORDS, MAX_SUMMARY = 4, 200


@dataclasses.dataclass(frozen=True)
class Entry:
    """The documentation of one module, class, function or method."""

    name: str
    """Within its module: 'norm', 'Random.choice'; empty for the module itself."""
    module: str
    """The module that users import it from, as far as the source says."""
    kind: str
    """'module', 'class', 'function' or 'method'."""
    arguments: str | None
    """As in the source, annotations included; None where the source of this module doesn't say: modules, and classes
    whose constructor is inherited from another module."""
    text: str

    @property
    def heading(self) -> str:
        """A Markdown heading with the signature."""
        if self.kind == "module":
            return f"# {self.module}"
        level = "###" if self.kind == "method" else "##"
        signature = self.name if self.arguments is None else f"{self.name}({self.arguments})"
        return f"{level} {'class ' if self.kind == 'class' else ''}{signature}"


def read_module(source: str, module: str) -> list[Entry]:
    """The documented public parts of a module, in the order of the source; empty when it doesn't parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    home = _declared_home(tree) or _public(module)
    entries = [Entry("", module, "module", None, text)] if (text := ast.get_docstring(tree)) else []
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    entries += _members(tree.body, home, "", classes)
    if "add_newdoc" in source or "add_docstr" in source:
        entries += _added(tree, home, _templates(tree))
    return [entry for entry in entries if entry.text.strip()]


def to_markdown(entries: Iterable[Entry]) -> str:
    """One page: each entry's heading and text."""
    return "\n\n".join(f"{entry.heading}\n\n{entry.text.strip()}" for entry in entries) + "\n"


def summary_of(text: str) -> str | None:
    """The first sentence of a docstring without markup, or None when it is not a real sentence of its own."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    found = _SENTENCE.match(_ROLE.sub(r"\1", paragraph).replace("``", "").replace("`", ""))
    if found is None:
        return None
    sentence = found[1]
    plain = sentence[0].isalpha() and not any(mark in sentence for mark in (">>>", "::", "|", "$", "{", "\\"))
    words = len(sentence.split())
    if not plain or words < MIN_WORDS or len(sentence) > MAX_SUMMARY or sentence.lower().startswith(_NOT_A_SUMMARY):
        return None
    return sentence


def argument_names(arguments: str) -> list[str]:
    """The names in a signature, which may be irregular for C functions: 'a, b=2, *, c: int = 3' -> ['a', 'b', 'c']."""
    with contextlib.suppress(SyntaxError, ValueError):
        function = ast.parse(f"def f({arguments}): pass").body[0]
        assert isinstance(function, _Function)
        names = [a.arg for a in _all_arguments(function.args)]
        return [name for name in names if name not in ("self", "cls")]
    return list(dict.fromkeys(_NAME.findall(_DEFAULT.sub("", arguments))))


def plain_arguments(arguments: str) -> str:
    """A signature without annotations, which make it hard to read."""
    with contextlib.suppress(SyntaxError, ValueError):
        function = ast.parse(f"def f({arguments}): pass").body[0]
        assert isinstance(function, _Function)
        for argument in _all_arguments(function.args):
            argument.annotation = None
        return ast.unparse(function.args)
    return arguments


def _all_arguments(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args)
    if arguments.vararg:
        yield arguments.vararg
    yield from arguments.kwonlyargs
    if arguments.kwarg:
        yield arguments.kwarg


def _members(body: list[ast.stmt], module: str, owner: str, classes: _Classes) -> Iterator[Entry]:
    """Public functions and classes of a module or class body, with the methods of each class after it."""
    for node in body:
        if not isinstance(node, _Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        name = f"{owner}{node.name}"
        home = _set_module(node) or module
        text = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            yield Entry(name, home, "class", _constructor(node, classes), text)
            yield from _members(node.body, home, f"{name}.", classes)
        else:
            yield Entry(name, home, "method" if owner else "function", ast.unparse(node.args), text)


def _constructor(node: ast.ClassDef, classes: _Classes, depth: int = 0) -> str | None:
    """The arguments of a class's __init__, its own or that of its first base in the same module; None if unknown."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return re.sub(r"^self(, |$)", "", ast.unparse(member.args))
    base = node.bases[0] if node.bases else None
    if isinstance(base, ast.Name) and base.id in classes and depth < 10:
        return _constructor(classes[base.id], classes, depth + 1)
    return None


def _added(tree: ast.Module, module: str, templates: dict[str, str]) -> Iterator[Entry]:
    """What add_newdoc and add_docstr calls document."""
    for node in tree.body:
        call = node.value if isinstance(node, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name | ast.Attribute):
            continue
        function = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
        if function == "add_newdoc" and len(call.args) >= 3:
            place, name = _text(call.args[0], templates), _text(call.args[1], templates)
            yield from _documented(name, _public(place), call.args[2], templates)
        elif function in ("add_docstr", "_add_docstr") and len(call.args) >= 2:
            place, _, name = ast.unparse(call.args[0]).rpartition(".")
            yield from _documented(name, _public(place) or module, call.args[1], templates)


def _documented(name: str, module: str, value: ast.expr, templates: dict[str, str]) -> Iterator[Entry]:
    """The entry for a function written in C, whose signature is the first line of its text."""
    if isinstance(value, ast.Tuple) and len(value.elts) == 2:  # numpy: (method name, text)
        name, value = f"{name}.{_text(value.elts[0], templates)}", value.elts[1]
    text = inspect.cleandoc(_text(value, templates))
    arguments: str | None = None
    while (signature := _SIGNATURE.match(text)) and signature[1].split(".")[-1] == name.split(".")[-1]:
        arguments = signature[2] if arguments is None else arguments  # numpy has an older form below the exact one
        text = text[signature.end() :]
    if name and not name.startswith("_"):
        yield Entry(name, module, "method" if "." in name else "function", arguments, text.strip())


def _text(node: ast.expr, templates: dict[str, str]) -> str:
    """A string in the source: a literal, a sum of strings, or a template with .format(...)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp):
        return _text(node.left, templates) + (_text(node.right, templates) if isinstance(node.op, ast.Add) else "")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        template = _text(node.func.value, templates)
        return _FORMAT.sub(lambda m: templates.get(m[1], "") if m[1] else m[0][0], template)
    return ""


def _templates(tree: ast.Module) -> dict[str, str]:
    """torch's texts for common arguments: `parse_kwargs(text)`, an entry for each name at the start of a line."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "parse_kwargs"
            and node.args
        ):
            for entry in re.split(r"\n(?=\w)", textwrap.dedent(_text(node.args[0], {})).strip()):
                found[entry.split(maxsplit=1)[0]] = entry.strip()
    return found


def _public(module: str) -> str:
    """The module name up to its first private part: numpy._core.multiarray -> numpy."""
    public = []
    for part in module.split("."):
        if part.startswith("_") and part != "__future__":
            break
        public.append(part)
    return ".".join(public) or module.lstrip("_")


def _set_module(node: _Function | ast.ClassDef) -> str | None:
    """What numpy's decorator @set_module('numpy.linalg') says."""
    for decorator in node.decorator_list:
        if (
            isinstance(decorator, ast.Call)
            and isinstance(decorator.func, ast.Name)
            and decorator.func.id == "set_module"
        ):
            return _text(decorator.args[0], {}) if decorator.args else None
    return None


def _declared_home(tree: ast.Module) -> str | None:
    """What numpy's `array_function_dispatch = functools.partial(..., module='numpy')` says for the whole file."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            for keyword in node.value.keywords:
                if keyword.arg == "module":
                    return _text(keyword.value, {}) or None
    return None
