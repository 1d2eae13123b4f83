"""Settings: every verb and every stage of a recipe is one frozen dataclass, filled from flags, YAML or a mapping.

jsonargparse does the parsing (types, YAML files, dotted overrides, `--print_config`, help with the docstrings of the
fields); this file turns its errors into one sentence that names the key and the nearest valid one.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import jsonargparse
import yaml

from fromzero.errors import UserError, nearest

T = TypeVar("T")

MAX_CONFIG_BYTES = 1_000_000

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


class _Parser(jsonargparse.ArgumentParser):
    """A parser whose errors are raised, not printed with a usage block."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise _cause(ex) or UserError(message) from ex


def _cause(error: BaseException | None) -> UserError | None:
    """The UserError that a settings class itself raised, when that is what is underneath."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _parser(settings: type, prog: str, description: str, defaults: Mapping[str, Any] | None = None) -> _Parser:
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the settings below.")
    parser.add_class_arguments(settings)
    if defaults:
        parser.set_defaults(dict(defaults))
    return parser


def from_arguments(
    settings: type[T],
    arguments: Sequence[str],
    prog: str,
    description: str,
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """Settings from command-line arguments, with `--config FILE.yaml` and dotted overrides, later ones winning.

    Raises UserError for an unknown key (naming the nearest valid one), a value of the wrong type, or a missing one.
    """
    arguments, preset = _preset(settings, arguments)
    defaults = {**(defaults or {}), **preset}
    parser = _parser(settings, prog, description, defaults)
    for path in _config_files(arguments):
        check_keys(settings, read_yaml(path), str(path))
    try:
        values = parser.parse_args(list(arguments))
    except UserError as error:
        raise _explained(error, settings, arguments) from None
    values.pop("config", None)
    return _instantiate(settings, parser, values)


def from_mapping(settings: type[T], values: Mapping[str, Any], where: str) -> T:
    """Settings from a mapping, as a recipe's stage or a manifest holds it. `where` names its place in messages."""
    values = _expanded(settings, values)
    check_keys(settings, values, where)
    parser = _parser(settings, "fromzero", "")
    try:
        return _instantiate(settings, parser, parser.parse_object(dict(values)))
    except UserError as error:
        raise UserError(f"{where}: {_explained(error, settings, ())}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError with the line when it doesn't parse."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes; that can't be a file of settings")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name a YAML file of settings") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    except RecursionError:
        raise UserError(f"{path} is nested too deep to be a file of settings") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold `key: value` settings, not a {type(values).__name__}")
    return values


def to_yaml(values: Mapping[str, Any]) -> str:
    """Settings as the YAML text that `--config` reads back."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def check_keys(settings: Any, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Raise UserError for a key that the settings class, or a class nested in it, does not have."""
    fields = field_types(settings)
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{where}: unknown key '{prefix}{key}'{nearest(str(key), fields)}")
        if value is None and fields[key] in (int, float, bool, str):  # jsonargparse lets it through
            raise UserError(f"{where}: {prefix}{key} takes {_type_name(fields[key])}, not null")
        members = [(f"{prefix}{key}.", value)]
        if typing.get_origin(fields[key]) in (dict, tuple):  # of settings: {name: {...}} or [{...}]
            inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
            members = [(f"{prefix}{key}.{name}.", member) for name, member in inner]
        kinds = [kind for kind in (fields[key], *typing.get_args(fields[key])) if dataclasses.is_dataclass(kind)]
        for place, member in members:
            if kinds and isinstance(member, Mapping):
                check_keys(kinds[0], member, where, place)


def field_types(settings: Any) -> dict[str, Any]:
    """Name -> resolved type of each field of a settings class."""
    types = typing.get_type_hints(settings)
    return {field.name: types[field.name] for field in dataclasses.fields(settings)}


def _expanded(settings: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Groups whose class has presets may name one, as in `model: {preset: NAME, layers: 4}`; what is beside it wins."""
    expanded = dict(values)
    for group, kind in field_types(settings).items():
        given = values.get(group)
        if isinstance(given, Mapping) and "preset" in given and hasattr(kind, "preset"):
            expanded[group] = kind.preset(given["preset"]) | {k: v for k, v in given.items() if k != "preset"}
    return expanded


def _preset(settings: Any, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments without `--model.preset NAME`, and the defaults that it means."""
    rest = list(arguments)
    defaults: dict[str, Any] = {}
    for group in [name for name, kind in field_types(settings).items() if hasattr(kind, "preset")]:
        for place in [i for i, a in enumerate(rest) if a.partition("=")[0] == f"--{group}.preset"][:1]:
            flag = rest.pop(place)
            name = flag.partition("=")[2] or "".join(rest[place : place + 1])
            del rest[place : place + ("=" not in flag)]
            found = _expanded(settings, {group: {"preset": name}})[group]
            defaults |= {f"{group}.{key}": value for key, value in found.items()}
    return rest, defaults


def _config_files(arguments: Sequence[str]) -> list[Path]:
    pairs = zip(arguments, [*arguments[1:], ""], strict=False)
    return [Path(a.partition("=")[2] or b) for a, b in pairs if a == "--config" or a.startswith("--config=")]


def _instantiate(settings: type[T], parser: _Parser, values: jsonargparse.Namespace) -> T:
    try:
        made = parser.instantiate(values)
    except Exception as error:
        if found := _cause(error):
            raise found from None
        raise
    return settings(**{name: getattr(made, name) for name in field_types(settings)})


def dotted(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Every option name a settings class makes, groups spelled out: {'model.layers': int, ...}."""
    names: dict[str, Any] = {}
    for name, kind in field_types(settings).items():
        parts = typing.get_args(kind) if type(None) in typing.get_args(kind) else ()
        groups = [part for part in (kind, *parts) if dataclasses.is_dataclass(part)]
        names |= {} if groups == [kind] else {prefix + name: kind}
        for group in groups:
            names |= dotted(group, f"{prefix}{name}.")
    return names


def _explained(error: UserError, settings: Any, arguments: Sequence[str]) -> UserError:
    """jsonargparse's message as one sentence with the key, what is expected and what was given."""
    text = str(error)
    names = dotted(settings)
    if "nrecognized arguments" in text or "does not accept" in text:
        flags = [a.partition("=")[0] for a in arguments if a.startswith("--")]
        bad = next((f for f in flags if f[2:].rstrip("+") not in {*names, *field_types(settings), "config"}), None)
        if bad is None:
            return UserError(f"{' '.join(text.split())}; options are written --name VALUE")
        return UserError(f"unknown option '{bad}'" + nearest(bad[2:], names).replace("'", "'--", 1))
    if missing := re.search(r"following arguments are required: ([\w.]+)", text):
        return UserError(f"{missing[1]} is missing; give it as --{missing[1]} VALUE or in the file named by --config")
    key = re.search(r'[Kk]ey "([^"]+)"', text)
    value = re.search(r"(?:Got|Given) value: (.*)", text)
    # Of a group that may be null, jsonargparse names the key alone.
    flags = [name for name in names if key and any(a.startswith(f"--{name}") for a in arguments)]
    name = next((name for name in (key and key[1], *flags) if name in names and key and name.endswith(key[1])), None)
    if name:
        given = f", not '{value[1].strip()}'" if value else ""
        return UserError(f"--{name} takes {_type_name(names[name])}{given}")
    return UserError(" ".join(text.split()))


def _type_name(kind: Any) -> str:
    """A type in words: 'a whole number', 'one of a, b'."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    if kind in plain:
        return plain[kind]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _type_name(part) for part in parts)
    if origin in (list, tuple):
        return f"a list in brackets, as in '[a, b]', each item {_type_name(parts[0])}"
    if dataclasses.is_dataclass(kind):
        return f"settings in braces, as in '{{{dataclasses.fields(kind)[0].name}: ...}}'"
    if origin in (dict, Mapping):
        return f"names in braces, as in '{{name: value}}', each value {_type_name(parts[1])}"
    return str(kind).replace("typing.", "")
