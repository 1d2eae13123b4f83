"""The state of every random generator of a process: torch on the CPU and on each GPU, NumPy's and Python's."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state() -> dict[str, Any]:
    """All states, as JSON can hold them."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    key = numpy_state["state"]["key"].tolist()
    return {
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in gpus],
        "python": random.getstate(),
        "numpy": numpy_state | {"state": {"key": key, "pos": numpy_state["state"]["pos"]}},
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on from saved states; GPUs that were not there keep theirs."""
    torch.set_rng_state(_tensor(state["torch"]))
    for device, saved in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(_tensor(saved), device)
    version, numbers, spare = state["python"]
    random.setstate((version, tuple(numbers), spare))
    np.random.set_state(state["numpy"])


def seed_random_state(*numbers: int) -> None:
    """Seed all generators by some numbers, say those of the run, of the step and of the rank."""
    seeds = np.random.SeedSequence(numbers).generate_state(3, np.uint32)
    torch.manual_seed(int(seeds[0]))  # of every GPU too
    random.seed(int(seeds[1]))
    np.random.seed(int(seeds[2]))


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
