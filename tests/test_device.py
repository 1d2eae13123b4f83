"""What the machine can do is found out by running it."""

import subprocess
import sys

import pytest
import torch

from fromzero import device
from fromzero.errors import UserError


def test_the_probe_measures() -> None:
    machine = device.probe()
    assert machine.float32_flops > 1e8
    assert machine.memory_bytes > 1 << 28
    assert machine.compute_dtype in device.DTYPES


def test_named_devices_and_dtypes() -> None:
    assert device.pick_device("cpu") == torch.device("cpu")
    assert device.pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="'cuda' was asked for"):
            device.pick_device("cuda")


def test_auto_takes_bfloat16_only_where_it_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for bf16, expected in ((1.2, torch.float32), (1.5, torch.bfloat16)):
        speeds = {torch.float32: 1.0, torch.bfloat16: bf16}
        monkeypatch.setattr(device, "matmul_flops", lambda dtype, kind, speeds=speeds: speeds[dtype])
        assert device.pick_dtype("auto", torch.device("cpu")) == expected


def test_memory_is_counted() -> None:
    before = device.peak_memory_bytes(torch.device("cpu"))
    block = torch.ones(40_000_000)
    assert device.peak_memory_bytes(torch.device("cpu")) >= before
    assert device.peak_memory_bytes(torch.device("cpu")) > block.nbytes
    device.keep_freed_memory()


LEAVE = """
import torch
from fromzero import device

for how in (device.return_freed_memory, device.keep_freed_memory):
    how()
    before, stay, blocks = device.resident_memory_bytes(), [], []
    for _ in range(40):  # small ones stay between the large
        blocks.append(torch.ones(500_000))
        stay.append(torch.ones(1000))
    del blocks
    print(device.resident_memory_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_returned_or_kept() -> None:
    """In a process of its own, which has nothing free yet."""
    found = subprocess.run([sys.executable, "-c", LEAVE], check=True, capture_output=True, text=True).stdout
    returned, kept = map(int, found.split())
    assert returned < 8e6
    assert kept > 40e6
