"""What is found out by trying when a run begins: its compute dtype, and whether blocks are compiled.

Measured again, either could come out otherwise, and a run that goes on would not be the one that was cut off. So what
was chosen is kept beside the checkpoints.
"""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fromzero.console import say
from fromzero.device import TrainDtype, pick_dtype
from fromzero.files import write_json
from fromzero.model.block import Stack
from fromzero.model.scene import Tokens
from fromzero.parallel import World

STEPS = 3
"""Forward and backward passes that are timed each way, after one that is not."""


class Choices:
    """What the first rank has chosen in this run, or in the one that it goes on from."""

    def __init__(self, folder: Path, world: World) -> None:
        """folder: of the checkpoints."""
        self.file, self.world = folder / "chosen.json", world
        self.made: dict[str, Any] = json.loads(self.file.read_bytes()) if world.first and self.file.exists() else {}

    def make(self, name: str, choose: Callable[[], Any]) -> Any:
        """What is chosen now, unless it was before; on all ranks."""
        if self.world.first and name not in self.made:
            self.made[name] = choose()
        return self.world.share(self.made.get(name))

    def keep(self) -> None:
        """To be called when training begins: a run that is refused before should leave nothing behind."""
        if self.world.first:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.file, self.made)

    def dtype(self, name: TrainDtype) -> torch.dtype:
        """As device.pick_dtype."""
        found = self.make("dtype", lambda: str(pick_dtype(name, self.world.device)).removeprefix("torch."))
        dtype = getattr(torch, found)
        assert isinstance(dtype, torch.dtype)
        return dtype


def choose_compiled(
    model: nn.Module, mode: Literal["auto", "always", "never"], rows: int, length: int, choices: Choices
) -> bool:
    """Whether to compile the blocks of a model that computes `rows` sequences of `length` tokens at once.

    auto: if the first block, a copy of it, is faster so; the first rank tries. A block that later fails to compile
    runs as it is then.
    """
    if mode != "auto":
        return mode == "always"
    answer = choices.make("compiled", lambda: _faster(model, rows, length, choices.world.device))
    if answer:
        torch._dynamo.config.suppress_errors = True
    return bool(answer)


def _faster(model: nn.Module, rows: int, length: int, device: torch.device) -> bool:
    stack = next(module for module in model.modules() if isinstance(module, Stack))
    block = copy.deepcopy(stack.blocks[0]).train()
    scene = stack._scene(Tokens(0, length, device), stack._windowed[0])
    dtype = getattr(model, "compute_dtype", torch.float32)
    x_BTD = torch.randn(rows, length, stack.config.width, generator=torch.Generator().manual_seed(0))
    x_BTD = x_BTD.to(device, dtype).requires_grad_()

    def step() -> None:
        block(x_BTD, scene).sum().backward()

    plain = _seconds(step, device)
    try:
        block.compile()
        compiled = _seconds(step, device)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        say(f"torch.compile does not work here ({type(error).__name__}: {reason}): blocks run as they are")
        return False
    verdict = "blocks are compiled" if compiled < plain else "blocks run as they are"
    say(f"torch.compile: {compiled * 1e3:.1f} ms a block, {plain * 1e3:.1f} ms without: {verdict}")
    return compiled < plain


def _seconds(step: Callable[[], Any], device: torch.device) -> float:
    """The best of some."""
    best = float("inf")
    for attempt in range(STEPS + 1):
        _finish(device)
        started = time.perf_counter()
        step()
        _finish(device)
        if attempt:
            best = min(best, time.perf_counter() - started)
    return best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
