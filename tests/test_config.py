"""Settings from flags, YAML and mappings, and what is said when they are wrong."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from fromzero.config import from_arguments, from_mapping, read_yaml
from fromzero.errors import UserError


@dataclass(frozen=True)
class Shape:
    """Shape of something."""

    layers: int = 4
    """Number of layers."""
    kind: Literal["plain", "fancy"] = "plain"
    """Which kind."""

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise UserError(f"layers is {self.layers}; it must be at least 1")


@dataclass(frozen=True)
class Settings:
    """Settings for tests."""

    corpus: Path
    """Where it is."""
    shape: Shape = field(default_factory=Shape)
    """Its shape."""
    seed: int | None = None
    """A seed."""
    inputs: tuple[Path, ...] = ()
    """Some files."""


def parse(*arguments: str) -> Settings:
    return from_arguments(Settings, arguments, "test", "a test")


def test_flags_files_and_overrides_in_order(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("corpus: here\nshape: {layers: 7, kind: fancy}\ninputs: [a, b]\n")
    found = parse("--config", str(file), "--shape.layers", "9")
    assert found == Settings(Path("here"), Shape(9, "fancy"), None, (Path("a"), Path("b")))
    assert parse("--corpus", "x") == Settings(Path("x"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "x", "--shape.layrs", "3"], "unknown option '--shape.layrs'; did you mean '--shape.layers'?"),
        (["--corpus", "x", "--shape.layer", "3"], "unknown option '--shape.layer'; did you mean '--shape.layers'?"),
        (
            ["--corpus", "x", "--inputs", "y"],
            "--inputs takes a list in brackets, as in '[a, b]', each item a path, not 'y'",
        ),
        (["--corpus", "x", "--layers", "3"], "unknown option '--layers'; did you mean '--shape.layers'?"),
        (["--corpus", "x", "--seed", "many"], "--seed takes a whole number or null, not 'many'"),
        (["--corpus", "x", "--shape.kind", "odd"], "--shape.kind takes one of plain, fancy, not 'odd'"),
        (["--corpus", "x", "--shape.layers", "0"], "layers is 0; it must be at least 1"),
        (["--seed", "1"], "corpus is missing; give it as --corpus VALUE or in the file named by --config"),
    ],
)
def test_errors_name_the_key_and_the_nearest_valid_one(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert str(error.value) == message


def test_errors_in_files_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("corpus: here\nshape: {layer: 7}\n")
    with pytest.raises(UserError, match=r"settings\.yaml: unknown key 'shape\.layer'; did you mean 'layers'"):
        parse("--config", str(file))
    file.write_text("corpus: [here\n")
    with pytest.raises(UserError, match=r"settings\.yaml is not valid YAML.*line"):
        parse("--config", str(file))
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "missing.yaml")


def test_mappings_are_as_strict() -> None:
    assert from_mapping(Settings, {"corpus": "x", "shape": {"layers": 2}}, "here").shape.layers == 2
    with pytest.raises(UserError, match="here: unknown key 'sed'; did you mean 'seed'"):
        from_mapping(Settings, {"corpus": "x", "sed": 1}, "here")
    with pytest.raises(UserError, match="here: --seed takes"):
        from_mapping(Settings, {"corpus": "x", "seed": "x"}, "here")


def test_printed_settings_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--corpus", "x", "--shape.layers", "6", "--print_config")
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert parse("--config", str(file)) == Settings(Path("x"), Shape(6))
