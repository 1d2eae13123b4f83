"""Quantised blocks: equal to those of the gguf package, and as far from the numbers as the formula says."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fromzero.errors import UserError
from fromzero.interop.gguf_blocks import KINDS, Kind, dequantise, quantise

NUMBERS = {kind.name: number for number, kind in KINDS.items()}
# Where the scales are that are fp16: their bytes can't be any, as some are no numbers.
HALVES = {"q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0], "q2_k": [80, 82], "q3_k": [108],
          "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208]}  # fmt: skip
# Of a block whose numbers are at most 1 from 0: half a step, and what fp16 scales and minima add.
BOUNDS = {"f16": 2**-11, "bf16": 2**-8, "q8_0": 1 / 127, "q4_0": 1 / 8 + 1e-3, "q4_1": 1 / 15 + 2e-3}


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_any_bytes_are_the_same_numbers_as_elsewhere(kind: Kind) -> None:
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (700, 512 // kind.size, kind.bytes), dtype=np.uint8)
    for place in HALVES.get(kind.name, []):
        blocks[..., place : place + 2] = generator.normal(size=(*blocks.shape[:2], 1)).astype("<f2").view(np.uint8)
    data = blocks.reshape(700, -1)
    assert kind.bytes_of((700, 512)) == data.size
    ours = dequantise(data.reshape(-1), kind, (700, 512))
    theirs = gguf.dequantize(data, gguf.GGMLQuantizationType(NUMBERS[kind.name]))
    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"])
@settings(max_examples=60)
@given(st.data())
def test_numbers_become_the_same_bytes_and_stay_near(name: str, data: st.DataObject) -> None:
    x = data.draw(arrays(np.float32, (3, 64), elements=st.floats(-1, 1, width=16))) * np.float32(0.9)
    kind = KINDS[NUMBERS[name]]
    written = quantise(x, kind)
    assert written == gguf.quantize(x, gguf.GGMLQuantizationType(NUMBERS[name])).tobytes()
    back = dequantise(np.frombuffer(written, np.uint8), kind, x.shape)
    if name == "f32":
        assert np.array_equal(back, x)
    else:
        largest = np.abs(x.reshape(-1, max(kind.size, 1))).max(axis=1, keepdims=True)
        spread = 2 * largest if name == "q4_1" else largest
        assert (np.abs(back - x).reshape(-1, kind.size) <= spread * BOUNDS[name] + 127 * 2**-25).all()


@pytest.mark.parametrize("name", ["f16", "q8_0", "q4_0", "q4_1"])
def test_what_is_too_large_for_a_format_is_told(name: str) -> None:
    x = np.full((1, 32), 3e8, np.float32)
    x[0, 0] = -x[0, 1]
    with pytest.raises(UserError, match=rf"{name} can't hold 3e\+08|{name} can't hold 300000000"):
        quantise(x, KINDS[NUMBERS[name]])
