"""One complete synthetic run for all tests of reports."""

from pathlib import Path

import pytest
from synthetic import make_run

from fromzero.explain.gather import Run, read_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run. Tests only read it."""
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="session")
def run(run_folder: Path) -> Run:
    """The same, read."""
    return read_run(run_folder)
