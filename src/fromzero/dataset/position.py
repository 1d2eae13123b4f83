"""Where a loader stands, saved and restored: what both loaders check alike."""

from collections.abc import Mapping
from typing import Any

from fromzero.errors import UserError


def check_share(batch_size: int, context: int, rank: int, world_size: int, name: str = "batch_size") -> None:
    """Raise UserError when a batch can't be dealt evenly to the processes. name: of the setting with its size."""
    if context < 1 or batch_size < 1:
        raise UserError(f"context is {context} and batch_size {batch_size}; both should be 1 or more")
    if not 0 <= rank < world_size:
        raise UserError(f"rank {rank} of {world_size} processes; it should be 0 to {world_size - 1}")
    if batch_size % world_size:
        raise UserError(
            f"{name} {batch_size} is not a multiple of the {world_size} processes; set it to "
            f"{-(-batch_size // world_size) * world_size}"
        )


def check_state(own: Mapping[str, Any], saved: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Raise UserError when a saved state is about something else. names: key that must be equal -> what it is."""
    if missing := [key for key in own if key not in saved]:
        raise UserError(f"the saved state of the loader lacks '{missing[0]}'; it is not one of this loader")
    for key, what in names.items():
        if saved[key] != own[key]:
            raise UserError(
                f"the saved state of the loader is for {what} {saved[key]}, here it is {own[key]}; go on with what it "
                "was saved with, or start a new run"
            )
