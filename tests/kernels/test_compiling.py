"""Machine code that was kept is forgotten when any source changes, and the user hears when compiling takes long."""

import time
from pathlib import Path

import pytest

from fromzero.kernels.compiling import first_use, forget_if_changed


def test_kept_code_lives_as_long_as_all_sources_stay(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    source, kept = tmp_path / "a.py", tmp_path / "__pycache__" / "a.f-1.py311.nbi"
    source.write_text("one")
    forget_if_changed(tmp_path)
    kept.write_text("code")
    forget_if_changed(tmp_path)
    assert kept.exists()
    source.write_text("another")
    forget_if_changed(tmp_path)
    assert not kept.exists()


def test_a_folder_without_cache_gets_a_stamp(tmp_path: Path) -> None:
    forget_if_changed(tmp_path)
    assert (tmp_path / "__pycache__" / "sources.sha256").exists()


def test_only_a_long_first_use_is_told(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fromzero.kernels.compiling.PATIENCE", 0.2)
    with first_use("the quick one"):
        pass
    with first_use("the slow one"):
        time.sleep(0.5)
    said = "".join(capfd.readouterr())
    assert "compiling the slow one" in said
    assert "quick" not in said
