"""A model that all ranks make together: the first one looks after its folder, the others hear from it what to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromzero import artifact
from fromzero.artifact import Artifact
from fromzero.device import DeviceName
from fromzero.errors import UserError
from fromzero.parallel import World, join_world
from fromzero.training.trainer import CHECKPOINTS


@dataclass(frozen=True)
class Plan:
    """What is to be made, once everything that is read has been opened and checked."""

    config: Any
    """Settings that are recorded; see artifact.build."""
    inputs: Mapping[str, str]
    """Digests of what is read, by name."""
    make: Callable[[Path, World], Mapping[str, Any]]
    """Makes it, on each rank: (folder, world) -> summary, that of the first rank."""


def make_together(
    open_plan: Callable[[], Plan],
    output: Path,
    device: DeviceName,
    timeout: float = 600.0,
    *,
    version: int = 1,
    ignore: tuple[str, ...] = (),
) -> Artifact:
    """Bring the model at `output` up to date; started by torchrun, all ranks call it. Raises UserError.

    open_plan: opens what is read, called by each rank that has something to do. version, ignore: see artifact.build.
    """
    with join_world(device, timeout) as world:
        if world.first:
            return _first(open_plan, output, world, version, ignore)
        if folder := world.share(None):
            open_plan().make(Path(folder), world)
        elif folder is not None:
            raise UserError("the first rank could not begin; it says why")
        world.share(None)  # until the first rank has finished the folder
        return artifact.open_artifact(output, "model")


def _first(
    open_plan: Callable[[], Plan], output: Path, world: World, version: int, ignore: tuple[str, ...]
) -> Artifact:
    begun = False

    def make(folder: Path) -> Mapping[str, Any]:
        nonlocal begun
        begun = True
        world.share(str(folder))
        return plan.make(folder, world)

    try:
        plan = open_plan()
        made = artifact.build(
            output, "model", plan.config, plan.inputs, make, version=version, ignore=ignore, scratch=CHECKPOINTS
        )
    except BaseException:
        if not begun:
            world.share("")  # the others wait to hear how it begins
        raise
    if not begun:  # it was up to date
        world.share(None)
    world.share(None)
    return made
