"""What this machine can do, found out by running it: device, compute dtype, speed, memory."""

import ctypes
import os
import platform
import resource
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch.utils._python_dispatch import _disable_current_modes

from fromzero.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
TrainDtype = Literal["auto", "float32", "bfloat16", "float16", "float8"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float8": torch.bfloat16}
FLOAT8_CAPABILITY = (8, 9)  # of NVIDIA's GPUs: Ada, Hopper and later
# bf16 has 8 bits of precision less than fp32 has; it must be clearly faster to be worth that.
WORTHWHILE_SPEEDUP = 1.3

_M_MMAP_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -4, -3, -1


def pick_device(name: DeviceName = "auto") -> torch.device:
    """The named device, or the fastest present. Raises UserError when the named one is not there."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name != "auto":
        if not present[name]:
            raise UserError(f"device '{name}' was asked for, but this machine has none; use --device auto")
        return torch.device(name)
    return torch.device("cuda" if present["cuda"] else "mps" if present["mps"] else "cpu")


def pick_dtype(name: TrainDtype, device: torch.device) -> torch.dtype:
    """The named compute dtype, or for 'auto' bfloat16 where a short measurement shows that it is worth it.

    For float8, in which only some products are, it is bfloat16. Raises UserError where the device has no float8.
    """
    if name == "float8" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < FLOAT8_CAPABILITY):
        have = "a GPU before Ada" if device.type == "cuda" else f"the device '{device.type}'"
        raise UserError(f"dtype float8 needs an NVIDIA GPU of Ada, Hopper or later, not {have}; use --train.dtype auto")
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    faster = matmul_flops(torch.bfloat16, device.type) > WORTHWHILE_SPEEDUP * matmul_flops(torch.float32, device.type)
    return torch.bfloat16 if faster else torch.float32


@cache
def narrow_products_pay(dtype: torch.dtype, device: str) -> bool:
    """Whether products of matrices in bfloat16 or float16 are faster than in fp32; a CPU is asked by trying both."""
    if device != "cpu":
        return True
    best = dict.fromkeys((dtype, torch.float32), 0.0)
    with _disable_current_modes():  # recomputation would take these products for those of the pass that it is in
        for _ in range(4):  # in turn, so that whatever else the machine does slows both
            for kind in best:
                best[kind] = max(best[kind], matmul_flops.__wrapped__(kind, device, 512, 4))
    return best[dtype] > best[torch.float32]


@cache
def matmul_flops(dtype: torch.dtype, device: str = "cpu", size: int = 1024, repeats: int = 8) -> float:
    """Floating-point operations per second of the best of a few square matrix products."""
    a, b = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        _synchronize(device)
        started = time.perf_counter()
        a @ b
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def keep_freed_memory() -> None:
    """Let the C allocator keep freed blocks for the next step instead of giving them back to the system.

    A training step frees and asks for the same large tensors again and again; by default glibc maps them anew each
    time, and the kernel zeroes every page. Does nothing where there is no glibc.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Let the C allocator give freed blocks of a megabyte and more back at once, where memory matters more than time.

    By default glibc keeps them after some time, in pieces that what stays between them makes too small for the next.
    A training step takes longer, as pages are zeroed anew. Does nothing where there is no glibc.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 2**16)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**20)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**20)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: of the device when it is a GPU, else the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory_bytes() -> int:
    """What this process has in memory now; where the system doesn't tell, the most that it had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return peak_memory_bytes(torch.device("cpu"))


def total_memory_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True)
class Machine:
    """What a probe found."""

    system: str
    python: str
    torch: str
    device: str
    cores: int
    memory_bytes: int
    float32_flops: float
    bfloat16_flops: float
    compute_dtype: str


def probe() -> Machine:
    """Measure this machine (about a second on a CPU)."""
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=torch.__version__,
        device=f"{device.type} ({name})",
        cores=torch.get_num_threads(),
        memory_bytes=total_memory_bytes(),
        float32_flops=matmul_flops(torch.float32, device.type),
        bfloat16_flops=matmul_flops(torch.bfloat16, device.type),
        compute_dtype=str(pick_dtype("auto", device)).removeprefix("torch."),
    )
