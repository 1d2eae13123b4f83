"""Killed at any operation on files, a run loses no more than the checkpoint that was being written."""

import json
import subprocess
import sys

import pytest

from tests.training.kill_matrix import AFTER_THE_NAME, BEFORE_THE_NAME, Row


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    command = [sys.executable, "-m", "tests.training.kill_matrix", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return {row["operation"]: Row(**row) for row in json.loads(result.stdout)}


def test_the_matrix_has_every_operation(rows: dict[str, Row]) -> None:
    assert [*rows] == BEFORE_THE_NAME + AFTER_THE_NAME


@pytest.mark.parametrize("operation", BEFORE_THE_NAME + AFTER_THE_NAME)
def test_killed_at(rows: dict[str, Row], operation: str) -> None:
    row = rows[operation]
    assert row.signal == -9
    assert row.newest == (2 if operation in BEFORE_THE_NAME else 4)
    assert row.same_bits
    assert row.left == ["step-00000006"]
