"""Supervised fine-tuning beside TRL's SFTTrainer, and the memory of QLoRA beside LoRA in bfloat16.

    python bench/tuning.py [--save] [--rounds 5] [--parts sft memory]

Both train the same weights (SmolLM2's shape, drawn at random) on the same conversations, by AdamW, in rows of the same
number of places; each in a process of its own, interleaved round by round. Rates count places of packed rows, of which
less than 5 % are padding in both; padded batches hold conversations of like length in both, and are counted in steps.
Memory is the peak of a process that opens a model and takes two steps; QLoRA gives freed memory back at once, where
LoRA keeps it for the next step, as `fromzero finetune chat` has both.
"""

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, child_environment, core_count, fail, machine_lines, markdown_table, publish
from training import Worker, ratios, spread

SMOLLM2 = {"layers": 30, "width": 576, "heads": 9, "kv_heads": 3, "ffn_width": 1536}
LARGE = {"layers": 36, "width": 1536, "heads": 12, "kv_heads": 4, "ffn_width": 6144}
TINY = {"layers": 4, "width": 256, "heads": 4, "kv_heads": 2, "ffn_width": 512}
CASES = [(dtype, lora, packing) for dtype in ("float32", "bfloat16") for lora in (False, True)
         for packing in ("packed", "padded")]  # fmt: skip
MAKE = """
import json, sys
from pathlib import Path
import torch
from fromzero.interop import save_model
from fromzero.model import ModelConfig, Transformer
from fromzero.model.rounding import round_model
shape, folder, tokenizer, few_bits, dtype = json.loads(sys.argv[1]), *sys.argv[2:]
model = Transformer(ModelConfig(vocab_size=49152, context=2048, **shape))
round_model(model, few_bits)
Path(folder).mkdir()
save_model(model, Path(folder), Path(tokenizer), {"bos": 0, "eos": 0}, getattr(torch, dtype))
"""


def make_model(folder: Path, shape: dict[str, int], few_bits: str = "none", dtype: str = "float32") -> Path:
    """A model of random weights, made in a process of its own."""
    from fromzero.corpus import CorpusConfig, build_corpus
    from fromzero.tokenizer import TokenizerConfig, train_tokenizer

    corpus, tokenizer = folder.parent / "corpus", folder.parent / "tokenizer"  # skipped when they are there
    build_corpus(CorpusConfig(inputs=(ROOT / "docs",), output=corpus, workers=1))
    train_tokenizer(TokenizerConfig(corpus=corpus, output=tokenizer, vocab_size=4096))
    command = [sys.executable, "-c", MAKE, json.dumps(shape), str(folder), str(tokenizer), few_bits, dtype]
    subprocess.run(command, check=True, env=child_environment())
    return folder


def start(job: dict[str, Any]) -> Worker:
    """Start a worker and wait until its model stands and its first loss is known."""
    command = [sys.executable, str(Path(__file__).with_name("tuning_worker.py"))]
    environment = child_environment({"PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false"})
    worker = Worker(
        subprocess.Popen(command, text=True, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    worker.send(json.dumps({"threads": core_count(), **job}))
    worker.first = worker.receive()
    return worker


def stop(*workers: Worker) -> None:
    """End them."""
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


def sft(options: argparse.Namespace, folder: Path) -> str:
    """Tokens per second of both, in each case."""
    model, rows = make_model(folder / "plain", TINY if options.tiny else SMOLLM2), []
    cases = [case for case in CASES if case[0] in options.dtypes]
    for dtype, lora, packing in cases[:: max(1, len(cases) // options.cases)]:
        job = {"folder": str(model), "dtype": dtype, "adapters": lora, "packing": packing}
        job |= {"context": options.context, "batch": options.batch}
        pair = [start({**job, "system": system}) for system in ("fromzero", "trl")]
        if not abs(pair[0].first["loss"] - pair[1].first["loss"]) < (1e-3 if dtype == "float32" else 5e-2):
            fail(f"the two compute something else: losses are {pair[0].first['loss']} and {pair[1].first['loss']}")
        for worker in pair:
            worker.run(2)
        for number in range(options.rounds):
            for worker in pair if number % 2 else pair[::-1]:
                worker.seconds.append(worker.run(options.steps))
        stop(*pair)
        unit = options.context * options.batch if packing == "packed" else 1
        rates = [f"{unit / statistics.median(worker.seconds):,.{0 if unit > 1 else 2}f}" for worker in pair]
        what = f"{'LoRA' if lora else 'all weights'}, {dtype}, {packing} ({'places' if unit > 1 else 'steps'}/s)"
        rows.append([what, *rates, spread(ratios(*pair))])
        print(rows[-1], file=sys.stderr)
    return markdown_table(["", "fromzero", "TRL", "times as fast"], rows)


def memory(options: argparse.Namespace, folder: Path) -> str:
    """Peaks of LoRA on the same large model in two ways."""
    found = {}
    for name, few_bits in (("LoRA, bfloat16", "none"), ("QLoRA, int4", "int4")):
        model = make_model(folder / few_bits, TINY if options.tiny else LARGE, few_bits, "bfloat16")
        job = {"folder": str(model), "dtype": "bfloat16", "adapters": True, "packing": "packed", "context": 128}
        worker = start({**job, "system": "memory", "batch": 1})
        worker.run(2)
        found[name] = worker.peak_bytes
        stop(worker)
    rows = [[name, f"{peak / 2**20:,.0f}"] for name, peak in found.items()]
    plain, few = found.values()
    return markdown_table(["", "peak MiB"], rows) + f"\n\nQLoRA takes {few / plain:.2f} of what LoRA takes."


def main() -> None:
    """Measure, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["sft", "memory"], choices=["sft", "memory"])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of each case")
    parser.add_argument("--steps", type=int, default=1, help="steps of each system in a round")
    parser.add_argument("--context", type=int, default=512, help="places in a row")
    parser.add_argument("--batch", type=int, default=4, help="rows in a step")
    parser.add_argument("--cases", type=int, default=len(CASES), choices=[1, 2, 4, 8], help="how many of the cases")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of what is computed")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try whether the bench works")
    parser.add_argument("--save", action="store_true", help="write bench/results/tuning.md")
    options = parser.parse_args()
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        if "sft" in options.parts:
            parts += ["## Supervised fine-tuning", sft(options, Path(folder))]
        if "memory" in options.parts:
            parts += ["## Memory", memory(options, Path(folder))]
    versions = {name: importlib.metadata.version(name) for name in ("trl", "peft", "transformers")}
    publish("tuning", "Fine-tuning", "\n\n".join(parts), machine_lines(**versions), options.save)


if __name__ == "__main__":
    main()
