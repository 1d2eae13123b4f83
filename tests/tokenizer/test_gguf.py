"""GGUF headers of both byte orders, and nothing but a clear error from files that lie about themselves."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.errors import UserError
from fromzero.tokenizer.gguf import TensorInfo, read_gguf_header
from tests.tokenizer.gguf_samples import write_gguf

METADATA: dict[str, Any] = {
    "general.name": "从零",
    "general.alignment": 64,
    "small": 0.5,
    "yes": True,
    "words": ["a", "", "字"],
    "nested": [["a"], ["b", "c"]],
    "scores": np.arange(5, dtype=np.float32),
    "types": np.array([1, -2], np.int32),
}
TENSORS = (("blk.0.weight", (2, 3)), ("bias", (7,)), ("one", ()))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", METADATA, TENSORS)


@pytest.mark.parametrize("order", "<>")
def test_what_was_written_is_read(tmp_path: Path, order: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", METADATA, TENSORS, order)
    header = read_gguf_header(path)
    assert header.byte_order == order
    assert header.data_start == -(-path.stat().st_size // 64) * 64
    assert header.tensors == [TensorInfo(name, shape, 0, 32 * i) for i, (name, shape) in enumerate(TENSORS)]
    assert list(header.metadata) == list(METADATA)
    for name, value in METADATA.items():
        assert (
            np.array_equal(header.metadata[name], value)
            if isinstance(value, np.ndarray)
            else value == header.metadata[name]
        )


def test_every_truncation_is_told(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    for size in range(len(data)):
        (tmp_path / "cut.gguf").write_bytes(data[:size])
        with pytest.raises(UserError, match=r"cut\.gguf"):
            read_gguf_header(tmp_path / "cut.gguf")


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_header_is_read_or_told(file: Path, data: st.DataObject) -> None:
    damaged = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 8))
        damaged[place : place + 8] = data.draw(
            st.sampled_from([b"\xff" * 8, b"\0" * 8]) | st.binary(min_size=8, max_size=8)
        )
    (file.parent / "damaged.gguf").write_bytes(damaged)
    try:
        read_gguf_header(file.parent / "damaged.gguf")
    except UserError as error:
        assert "damaged.gguf" in str(error)  # noqa: PT017


def header(*parts: tuple[str, Any]) -> bytes:
    return b"GGUF" + b"".join(struct.pack("<" + code, value) for code, value in parts)


DEEP = [("Q", 0), ("Q", 1), ("Q", 0), ("I", 9), *[("I", 9), ("Q", 1)] * 100, ("I", 8), ("Q", 0)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(60), "not a GGUF file"),
        (header(("I", 1), ("Q", 0), ("Q", 0)), "version 1"),
        (header(("I", 3), ("Q", 1 << 60), ("Q", 0)), "claims to have"),
        (header(("I", 3), ("Q", 0), ("Q", 1 << 60)), "claims to have"),
        (header(("I", 3), *DEEP), "too many arrays"),
        (header(("I", 3), ("Q", 0), ("Q", 1), ("Q", 0), ("I", 77), ("Q", 0)), "type 77"),
        (header(("I", 3), ("Q", 1), ("Q", 0), ("Q", 0), ("I", 9), ("Q", 0)), "9 dimensions"),
        (
            header(
                ("I", 3), ("Q", 1), ("Q", 0), ("Q", 0), ("I", 2), ("Q", 1 << 40), ("Q", 1 << 40), ("I", 0), ("Q", 0)
            ),
            "no machine",
        ),
    ],
)
def test_lies_are_told(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "lie.gguf").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_gguf_header(tmp_path / "lie.gguf")


def test_names_are_there_once_and_alignment_is_a_number(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {}, (("a", (1,)), ("a", (1,))))
    with pytest.raises(UserError, match="same name twice"):
        read_gguf_header(path)
    with pytest.raises(UserError, match=r"general\.alignment 0"):
        read_gguf_header(write_gguf(path, {"general.alignment": 0}))
