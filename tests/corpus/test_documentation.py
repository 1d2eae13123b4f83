import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fromzero.corpus import CorpusConfig, build_corpus, collect_documentation, read_corpus
from fromzero.corpus.docstrings import argument_names, plain_arguments, read_module, summary_of, to_markdown
from fromzero.corpus.documentation import DocumentationConfig
from fromzero.errors import UserError

MODULE = '''
"""The module."""

array_function_dispatch = functools.partial(overrides.dispatch, module="pack")

def public(a, b: int = 2, *rest, c=None, **more):
    """Add things to other things.

    Longer text.
    """

def _private():
    """Not for users."""

class Base:
    """Something to start from."""
    def __init__(self, size, color="red"):
        pass
    def area(self):
        """Return the area of it."""

class Derived(Base):
    """Something that takes what its base takes."""

class Foreign(elsewhere.Base):
    """Something whose arguments are not known here."""

@set_module("pack.special")
def moved(x):
    """Live somewhere else than in this file."""

add_newdoc("pack._core.multi", "zeros",
    """
    zeros(shape, /, dtype=None)
    --

    zeros(shape, dtype=float)

    Return a new array filled with zeros.
    """)
add_newdoc("pack._core.multi", "ndarray", ("fill", """a.fill(value)\\n\\nFill the array with a scalar value."""))

common = parse_kwargs("""
    input (Tensor): the input tensor.
    out (Tensor, optional): the output tensor.
""")
add_docstr(pack.exp, r"""
exp(input, *, out=None) -> Tensor

Return the exponential of {{x}} the elements.

Args:
    {input}
""".format(**common) + "The end.")
'''


def test_what_is_read_from_a_module() -> None:
    entries = {entry.name: entry for entry in read_module(MODULE, "pack._file")}
    assert list(entries) == [
        "",
        "public",
        "Base",
        "Base.area",
        "Derived",
        "Foreign",
        "moved",
        "zeros",
        "ndarray.fill",
        "exp",
    ]
    assert entries[""].heading == "# pack._file"
    assert entries["public"].heading == "## public(a, b: int=2, *rest, c=None, **more)"
    assert entries["public"].module == "pack"
    assert entries["moved"].module == "pack.special"
    assert entries["Derived"].heading == "## class Derived(size, color='red')"
    assert entries["Foreign"].heading == "## class Foreign"
    assert entries["Base.area"].heading == "### Base.area(self)"
    assert (entries["zeros"].module, entries["zeros"].arguments) == ("pack", "shape, /, dtype=None")
    assert entries["zeros"].text == "Return a new array filled with zeros."
    assert entries["ndarray.fill"].kind == "method"
    assert entries["exp"].arguments == "input, *, out=None"
    assert entries["exp"].text.startswith("Return the exponential of {x} the elements.")
    assert "input (Tensor): the input tensor." in entries["exp"].text
    assert entries["exp"].text.endswith("The end.")
    assert to_markdown(entries.values()).startswith("# pack._file\n\nThe module.\n\n## public(")


def test_source_that_does_not_parse_gives_nothing() -> None:
    assert read_module("def broken(:", "m") == read_module("\0", "m") == read_module("x = 1", "m") == []


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("Return the\nsum of it. More.\n\nRest", "Return the sum of it."),
        ("Compute :func:`~a.b` of ``x``, e.g. of one.", None),  # 'e.g.' ends too early: three words are no sentence
        ("Join :class:`Path <pathlib.Path>` and `name` together.", "Join Path and name together."),
        ("no full stop at all here", None),
        ("See :func:`torch.add` for this one.", None),
        ("Too short.", None),
        (">>> a = 1. And so on it goes", None),
        ("", None),
    ],
)
def test_summaries_are_sentences(text: str, summary: str | None) -> None:
    found = summary_of(text)
    assert found == summary or (summary is None and found is not None and "e.g." in found)


def test_arguments() -> None:
    assert argument_names("self, a, /, b: int = 2, *args, c=(1, 2), **kw") == ["a", "b", "args", "c", "kw"]
    assert argument_names("*size, *, out=None, layout=torch.strided") == ["size", "out", "layout"]  # as torch writes it
    assert argument_names("[start,] stop[, step,], dtype=None") == ["start", "stop", "step", "dtype"]
    assert argument_names("") == []
    assert plain_arguments("a: int, b: str = 'x', *c: int") == "a, b='x', *c"


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("documentation") / "documents"
    settings = DocumentationConfig(output, packages=("mpmath", "no-such-package"), max_bytes=2_400_000)
    collect_documentation(settings)
    return output


def test_the_documents(collected: Path) -> None:
    assert (collected / "python" / "topics" / "for.txt").read_text().startswith('The "for" statement')
    there = importlib.util.find_spec("idlelib") is not None  # Debian has it in a package of its own
    assert (collected / "python" / "pages" / "idlelib" / "help.html").exists() == there
    assert (collected / "python" / "pages" / "email" / "architecture.rst").exists()
    assert "# mpmath" in "".join(p.read_text() for p in (collected / "mpmath" / "modules").iterdir())
    names = [path.as_posix().lower() for path in collected.rglob("*")]
    assert not any("license" in name or "/test" in name.removeprefix(collected.as_posix()) for name in names)


def test_the_sources(collected: Path) -> None:
    sources: list[dict[str, Any]] = json.loads((collected / "sources.json").read_text())
    assert [source["name"] for source in sources] == ["python", "mpmath", "no-such-package"]
    assert sources[2] == {"name": "no-such-package", "version": None, "license": None, "documents": 0, "bytes": 0}
    assert "BSD" in sources[1]["license"]
    for source in sources[:2]:
        files = [p for p in (collected / source["name"]).rglob("*") if p.is_file()]
        assert (len(files), sum(p.stat().st_size for p in files)) == (source["documents"], source["bytes"])
    assert sum(source["bytes"] for source in sources) <= 2_400_000


def test_the_functions(collected: Path) -> None:
    functions: list[dict[str, Any]] = json.loads((collected / "functions.json").read_text())
    assert len(functions) > 100
    assert len({(f["module"], f["name"]) for f in functions}) == len(functions)
    for function in functions:
        assert set(function) == {"name", "module", "package", "signature", "arguments", "summary"}
        assert function["signature"].startswith(function["name"] + "(")
        assert function["summary"][-1] in ".!?"
        assert all(name.isidentifier() for name in function["arguments"])
        assert not function["name"].startswith("_")


def test_the_same_machine_gives_the_same_documents(collected: Path, tmp_path: Path) -> None:
    settings = DocumentationConfig(tmp_path / "again", packages=("mpmath", "no-such-package"), max_bytes=2_400_000)
    again = collect_documentation(settings)
    assert again.digest == json.loads((collected / "manifest.json").read_text())["content"]


def test_packages_are_not_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from fromzero.corpus import collect_documentation\n"
        "from fromzero.corpus.documentation import DocumentationConfig\n"
        "collect_documentation(DocumentationConfig(Path(sys.argv[1]), ('networkx', 'torch'), max_bytes=60_000))\n"
        "print(sorted({'networkx', 'torch', 'trafilatura', 'pyarrow'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script, tmp_path / "out"], capture_output=True, text=True, check=True)
    assert ast.literal_eval(ended.stdout) == []


def test_it_becomes_a_corpus(collected: Path, tmp_path: Path) -> None:
    corpus = build_corpus(CorpusConfig((collected,), tmp_path / "out", workers=2))
    counts = corpus.summary
    assert counts["documents"]["kept"] > 0.95 * counts["documents"]["read"]
    assert set(counts["files"]["passed_over_suffixes"]) == set()
    assert {document.language for document in read_corpus(corpus.path, "validation")} == {"en"}


def test_a_limit_that_can_not_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_bytes is 0"):
        DocumentationConfig(tmp_path, max_bytes=0)
