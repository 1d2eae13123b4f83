"""What the model says at several points of training: `samples.jsonl`, {step, prompt, text} a line."""

import json
from collections.abc import Sequence
from pathlib import Path

from fromzero.files import write_text
from fromzero.training.metrics import read_metrics


class SampleLog:
    """Keeps one set of samples a step, also when a resumed run comes past a step again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "samples.jsonl"

    def write(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Write (prompt, text) pairs of a step; what was there of this and of later steps goes."""
        lines = [line for line in read_metrics(self.path) if line["step"] < step]
        lines += [{"step": step, "prompt": prompt, "text": text} for prompt, text in samples]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
