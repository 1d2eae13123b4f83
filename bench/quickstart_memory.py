"""Peak memory and time of `fromzero quickstart`, over all of its processes.

    python bench/quickstart_memory.py [--save] [-- ARGUMENTS FOR QUICKSTART]

Memory is the sum over the process tree of the proportional set size (Linux: a page that n processes share counts 1/n
in each), or of the unique set size where there is none (macOS, Windows), sampled several times a second.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from common import child_environment, fail, machine_lines, markdown_table, publish

GOAL_BYTES = 3 * 2**30
_STAGE = re.compile(r"^\[\d+/\d+\] (.+)$")


@dataclass
class Usage:
    """What was seen of one stage."""

    peak_bytes: int = 0
    peak_processes: int = 0
    seconds: float = 0.0


@dataclass
class Sampler:
    """Watches a process tree and books what it uses on the stage that its output last named."""

    process: "subprocess.Popen[str]"
    interval: float
    stage: str = "start"
    stages: dict[str, Usage] = field(default_factory=dict)
    kind: str = ""
    """Which memory figure the system has: pss, uss or rss."""

    def follow_output(self) -> None:
        """Pass the child's lines on and note the stages; runs in a thread of its own."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            sys.stderr.write(line)
            if found := _STAGE.match(line.strip()):
                self.stage = found[1]

    def watch(self) -> None:
        """Sample until the child ends."""
        root = psutil.Process(self.process.pid)
        last = time.monotonic()
        while self.process.poll() is None:
            used, count = self._tree(root)
            now = time.monotonic()
            usage = self.stages.setdefault(self.stage, Usage())
            usage.seconds += now - last
            if used > usage.peak_bytes:
                usage.peak_bytes, usage.peak_processes = used, count
            last = now
            time.sleep(self.interval)

    def _tree(self, root: psutil.Process) -> tuple[int, int]:
        total = count = 0
        try:
            processes = [root, *root.children(recursive=True)]
        except psutil.Error:
            return 0, 0
        for process in processes:
            try:
                total += self._memory(process)
                count += 1
            except psutil.Error:  # it ended between the listing and the look
                continue
        return total, count

    def _memory(self, process: psutil.Process) -> int:
        try:
            full = process.memory_full_info()
        except psutil.AccessDenied:
            self.kind = "rss"
            return process.memory_info().rss
        self.kind = "pss" if hasattr(full, "pss") else "uss"
        return getattr(full, self.kind)


def run_quickstart(output: Path, extra: list[str], interval: float) -> Sampler:
    """Run it in a child and watch; ends the bench when it fails."""
    command = [sys.executable, "-m", "fromzero", "quickstart", "--output", str(output), *extra]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=child_environment())
    sampler = Sampler(process, interval)
    reader = threading.Thread(target=sampler.follow_output, daemon=True)
    reader.start()
    try:
        sampler.watch()
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
    reader.join(timeout=5)
    if process.returncode:
        fail(f"quickstart ended with exit code {process.returncode}; its message is above")
    return sampler


def report(sampler: Sampler) -> str:
    """The peak, the time, and both for each stage."""
    peak = max(usage.peak_bytes for usage in sampler.stages.values())
    seconds = sum(usage.seconds for usage in sampler.stages.values())
    within = "within" if peak < GOAL_BYTES else "above"
    rows = [
        [name, f"{usage.seconds:.0f}", f"{usage.peak_bytes / 2**20:,.0f}", str(usage.peak_processes)]
        for name, usage in sampler.stages.items()
    ]
    return "\n\n".join(
        [
            f"**Peak of all processes together: {peak / 2**30:.2f} GiB, {within} the goal of "
            f"{GOAL_BYTES / 2**30:.0f} GiB; {seconds / 60:.1f} minutes.**",
            f"Sum of {sampler.kind.upper()} over the process tree, a look every {sampler.interval} s.",
            markdown_table(["stage", "seconds", "peak MiB", "processes at the peak"], rows),
        ]
    )


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """The command line; what it doesn't know goes to quickstart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between two looks")
    parser.add_argument("--save", action="store_true", help="write bench/results/quickstart-memory.md")
    options, extra = parser.parse_known_args()
    return options, [argument for argument in extra if argument != "--"]


def main() -> None:
    """Run, watch, print."""
    options, extra = arguments()
    with tempfile.TemporaryDirectory(prefix="bench-quickstart-") as folder:
        sampler = run_quickstart(Path(folder) / "run", extra, options.interval)
    publish("quickstart-memory", "Memory of quickstart", report(sampler), machine_lines(), options.save)


if __name__ == "__main__":
    main()
