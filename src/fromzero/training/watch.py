"""Looking inside a step on demand: what each layer does to its input and to its weights, and where the time goes."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fromzero.console import human_count, say, table
from fromzero.model.block import Block
from fromzero.model.layers import FeedForward
from fromzero.parallel.fleet import Fleet
from fromzero.parallel.mesh import local

DEAD = 0.01
"""A hidden unit is dead when it never comes to this share of the root mean square of its layer."""


class Inspector:
    """Watches one step: `before_step` and `figures` go around the optimizer's, on all ranks.

    Over the whole batch and all ranks; for each part of a layer (attention, feed-forward, norms) and what is outside:
    update_ratio (rms of the step over that of the weights), gradient_norm (before clipping); and for each block,
    attention and feed-forward layer activation_rms and activation_max of what comes out, and dead_units of the hidden
    layer, among the tokens that a rank sees. A step that is watched holds its weights twice and runs uncompiled.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.before: dict[str, Tensor] = {}
        self.norms: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}
        self.units: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._compiled: list[tuple[Block, Any]] = []
        for part in fleet.parts:
            for name, module in part.named_modules():
                self._hook(name, module)

    def _hook(self, name: str, module: nn.Module) -> None:
        if isinstance(module, Block):  # what is compiled calls no hooks
            self._compiled.append((module, module._compiled))
            module._compiled = None
        if isinstance(module, Block) or name.endswith((".attention", ".feed_forward")):
            self._hooks.append(module.register_forward_hook(lambda _m, _x, y: self._came_out(name, y)))
        if isinstance(module, FeedForward):
            self._hooks.append(module.down.register_forward_pre_hook(lambda _m, x: self._hidden(name, x[0])))

    def _came_out(self, name: str, x: Tensor) -> None:
        x = local(x.detach()).float()
        new = torch.stack([x.square().sum(), torch.tensor(float(x.numel()), device=x.device), x.abs().max()])
        old = self.sums.get(name, torch.zeros_like(new))
        self.sums[name] = torch.cat([old[:2] + new[:2], torch.maximum(old[2:], new[2:])])

    def _hidden(self, name: str, x: Tensor) -> None:
        x = local(x.detach()).float().flatten(0, -2)
        most = x.abs().amax(0) / x.square().mean().sqrt().clamp(min=1e-30)
        self.units[name] = torch.maximum(self.units[name], most) if name in self.units else most

    def before_step(self, norm: float, most: float) -> None:
        """With the gradients clipped from a norm to at most another (0: they are not)."""
        self.close()
        clipped = most / norm if 0 < most < norm else 1.0
        named = dict(self.fleet.named_parameters())
        self.before = {name: p.detach().clone() for name, p in named.items()}
        gradients = {name: p.grad.detach() for name, p in named.items() if p.grad is not None}
        self.norms = {name: square**0.5 / clipped for name, square in _squares(gradients).items()}

    def figures(self) -> dict[str, float]:
        """What was seen, by name and layer; no ratios when there was no step. All ranks must call it."""
        self.close()
        now = {name: p.detach() for name, p in self.fleet.named_parameters()}
        steps, sizes = _squares({name: now[name] - old for name, old in self.before.items()}), _squares(self.before)
        own = {f"gradient_norm/{layer}": norm for layer, norm in self.norms.items()}
        own |= {f"update_ratio/{layer}": (step / max(sizes[layer], 1e-30)) ** 0.5 for layer, step in steps.items()}
        seen = {name: total.tolist() for name, total in self.sums.items()}
        dead = {name: [float((most < DEAD).sum()), float(most.numel())] for name, most in self.units.items()}
        owns, seens, deads = zip(*self.fleet.world.gather((own, seen, dead)), strict=True)
        figures = {name: value for own in owns for name, value in own.items()}
        for name, (squares, counts, largest) in _together(seens).items():
            figures[f"activation_rms/{name}"] = (sum(squares) / sum(counts)) ** 0.5
            figures[f"activation_max/{name}"] = max(largest)
        return figures | {f"dead_units/{name}": sum(few) / sum(all_) for name, (few, all_) in _together(deads).items()}

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        for block, compiled in self._compiled:
            block._compiled = compiled
        self._hooks, self._compiled = [], []


def _together(ranks: Sequence[dict[str, list[float]]]) -> dict[str, list[tuple[float, ...]]]:
    """Name -> each of its figures, of all ranks that have some."""
    names = dict.fromkeys(name for rank in ranks for name in rank)
    return {name: list(zip(*(rank[name] for rank in ranks if name in rank), strict=True)) for name in names}


def _squares(tensors: dict[str, Tensor]) -> dict[str, float]:
    """Sums of squares by layer, over the shards of all ranks."""
    sums: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        norm = torch.linalg.vector_norm(tensor.float())
        square = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm) ** 2
        layer = _layer(name)
        sums[layer] = sums[layer] + square if layer in sums else square
    return {layer: float(total) for layer, total in sums.items()}


def _layer(name: str) -> str:
    """'blocks.3.attention.query.weight' -> 'blocks.3.attention', 'final_norm.weight' -> 'final_norm'."""
    found = re.match(r"(.*?\bblocks\.\d+\.[^.]+|[^.]+)", name)
    return found[0] if found else name


@contextmanager
def profiled(steps: int, folder: Path, device: torch.device) -> Iterator[Callable[[], None]]:
    """Yields what is to be called after each step; with `steps` above 0, so many are recorded, after three others.

    They go into `trace.json` (for chrome://tracing or ui.perfetto.dev), and the ten dearest operations are said.
    """
    if steps < 1:
        yield lambda: None
        return
    from torch.profiler import ProfilerActivity, profile, schedule

    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]

    def write(profiler: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(folder / "trace.json"))
        _say_dearest(profiler.key_averages(), "self_device_time_total" if cuda else "self_cpu_time_total", steps)
        say(f"profile of {steps} steps: {folder / 'trace.json'}; open it at ui.perfetto.dev")

    plan = schedule(wait=2, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step


def _say_dearest(averages: Any, key: str, steps: int) -> None:
    """The ten operations that take the most time of their own; times are in microseconds."""
    events = sorted(averages, key=lambda event: -getattr(event, key))
    times = [getattr(event, key) for event in events]
    rows = [
        (
            event.key[:48],
            human_count(event.count / steps),
            f"{time / steps / 1000:.1f}\u00a0ms",
            f"{time / sum(times):.0%}",
        )
        for event, time in list(zip(events, times, strict=True))[:10]
    ]
    table("dearest operations of a step", ("operation", "calls", "time", "share"), rows, " rrr")
