"""`fromzero doctor`: what this machine can do, shown by running it."""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from fromzero.commands import Verb
from fromzero.console import human_count, table

EXTRAS = {
    "corpus": ("pyarrow", "trafilatura", "resiliparse", "pypdfium2", "py3langid"),
    "track": ("tensorboard",),
}


@dataclass(frozen=True)
class DoctorConfig:
    """What to look at."""

    folder: Path = Path()
    """Where a run would be written; its free space is shown."""


def run(config: DoctorConfig) -> None:
    """Measure and print."""
    from fromzero.device import probe

    machine = probe()
    folder = config.folder.resolve()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    rows = [
        ("system", machine.system),
        ("Python, torch", f"{machine.python}, {machine.torch}"),
        ("device", machine.device),
        ("threads", str(machine.cores)),
        ("memory", f"{machine.memory_bytes / 2**30:.1f} GiB"),
        ("free disk", f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB"),
        ("float32 matrix products", f"{human_count(machine.float32_flops)}FLOP/s"),
        ("bfloat16 matrix products", f"{human_count(machine.bfloat16_flops)}FLOP/s"),
        ("compute dtype that auto picks", machine.compute_dtype),
    ]
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        rows.append((f"extra {extra}", f"lacks {', '.join(missing)}" if missing else "installed"))
    table("This machine", ("what", "found"), rows)


VERB = Verb(DoctorConfig, run)
