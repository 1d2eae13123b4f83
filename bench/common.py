"""What the benches share: where a peer is, what machine this is, tables, and saving results."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
# Instruction sets that decide how fast matrix products are, as /proc/cpuinfo spells them.
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve", "i8mm")


def fail(message: str) -> NoReturn:
    """Say what is wrong in one sentence and end with exit code 2."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(2)


def nanogpt_folder(folder: Path | None) -> Path:
    """The checkout of nanoGPT: the argument, or else the environment variable NANOGPT."""
    found = folder or (Path(os.environ["NANOGPT"]) if os.environ.get("NANOGPT") else None)
    if found is None or not (found / "model.py").exists():
        where = "no folder was named" if found is None else f"{found} has no model.py"
        fail(
            f"needs a checkout of nanoGPT ({where}): `git clone https://github.com/karpathy/nanoGPT`, "
            "then pass --nanogpt FOLDER or set NANOGPT=FOLDER"
        )
    return found.resolve()


def git_commit(folder: Path) -> str:
    """The first twelve digits of a checkout's commit, '+changes' behind them when tracked files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True).stdout.strip()

    if not (commit := git("rev-parse", "--short=12", "HEAD")):
        return "unknown commit"
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_lines(**versions: str) -> list[str]:
    """What the numbers were measured on: processor, cores, system, versions, date."""
    versions = {"Python": platform.python_version(), "torch": importlib.metadata.version("torch"), **versions}
    versions["fromzero"] = git_commit(ROOT)
    return [
        f"- processor: {_processor()}, {core_count()} cores",
        f"- system: {platform.system()} {platform.machine()}",
        f"- versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"- date: {datetime.date.today().isoformat()}",
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    present = set(facts.get("flags", facts.get("Features", "")).split())
    flags = [flag for flag in _CPU_FLAGS if flag in present]
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(flags)}{'' if 'amx_bf16' in flags else '; no AMX'})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as Markdown and on a terminal; the first column is text, the others are numbers."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *(line(row) for row in cells[1:])])


def publish(name: str, title: str, body: str, machine: Sequence[str], save: bool) -> None:
    """Print a result, and write it to results/NAME.md when asked to."""
    text = "\n".join([f"# {title}", "", body.strip(), "", "Measured on:", "", *machine, ""])
    print("\n" + text)
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
        print(f"saved to {(RESULTS / f'{name}.md').relative_to(ROOT)}")


def child_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for children: the same number of threads for everyone, nothing downloaded."""
    threads = str(core_count())
    fixed = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **fixed, **(changes or {})}
