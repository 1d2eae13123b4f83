"""One system of `tuning.py`, in a process of its own.

Standard input: a JSON object that describes the job, then lines with a number of steps to run. Standard output: one
JSON object for each line: first the loss of some conversations before any step, then the seconds that the steps took.
"""

import dataclasses
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

RATE, RANK = 1e-5, 16
ANSWER = 0.5  # share of a conversation that carries loss
LORA_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker is told."""

    system: str
    """fromzero, trl, or memory: fromzero for its peak alone."""
    folder: str
    """Of the model."""
    dtype: str
    adapters: bool
    packing: str
    """padded or packed."""
    context: int
    batch: int
    threads: int


def conversations(job: Job, vocab: int) -> list[list[int]]:
    """Ids of conversations as short and as long as those of chat data are, the same for all systems."""
    draw = random.Random(0)
    lengths = [min(job.context, max(16, int(draw.lognormvariate(5.0, 0.7)))) for _ in range(2048)]
    return [[draw.randrange(100, min(vocab, 4096)) for _ in range(length)] for length in lengths]


def ours(job: Job) -> tuple[Callable[[int], None], float]:
    """fromzero's Trainer, as `finetune chat` makes it."""
    from fromzero.dataset import ConversationLoader, TokenShards
    from fromzero.dataset.packed_chats import PackedConversationLoader
    from fromzero.dataset.writing import TokenWriter, load_for_packing, write_index
    from fromzero.model.adapters import AdapterConfig
    from fromzero.parallel import ParallelConfig, World, parallelize
    from fromzero.training import TrainConfig, Trainer
    from fromzero.training.metrics import MetricsLog
    from fromzero.training.objective import counted, next_token_loss
    from fromzero.tuning.base import TuningConfig, open_base
    from fromzero.tuning.noise import NoisyNextToken

    folder, world = Path(tempfile.mkdtemp()), World(torch.device("cpu"))
    train: Any = {"batch_size": job.batch, "learning_rate": RATE, "warmup_steps": 0, "schedule": "constant"}
    train |= {"weight_decay": 0.0, "beta2": 0.999, "log_every": 10**9, "dtype": job.dtype}
    lora = AdapterConfig(rank=RANK) if job.adapters else None
    config = TuningConfig(model=Path(job.folder), output=folder, train=TrainConfig(**train), adapters=lora)
    base = open_base(config, folder, world)
    tokenizer, writer = load_for_packing(Path(job.folder)), TokenWriter(folder, "train", 4096, 10**9, masked=True)
    rows = conversations(job, base.model.config.vocab_size)
    for ids in rows:
        writer.add(ids, len(ids), [place >= len(ids) * (1 - ANSWER) for place in range(len(ids))])
    write_index(folder, tokenizer, "bench", {"train": writer.close()}, masked=True)
    kind = PackedConversationLoader if job.packing == "packed" else ConversationLoader
    loader = kind(TokenShards(folder, "train"), job.context, job.batch)
    objective = NoisyNextToken(base.model, 0.0, 0)
    fleet = parallelize(objective, ParallelConfig(), world)
    trainer = Trainer(base.model, loader, config.train, folder, lambda model, step: {}, objective, fleet)
    trainer.log = MetricsLog(folder)
    ids_BT = torch.tensor([rows[0]])
    with torch.no_grad():
        loss = float(next_token_loss(base.model, ids_BT[:, :-1], ids_BT[:, 1:])) / counted(ids_BT[:, 1:])

    def steps(count: int) -> None:
        for _ in range(count):
            trainer._train_step(lambda done, note="": None)

    return steps, loss


def trl(job: Job) -> tuple[Callable[[int], None], float]:
    """TRL's SFTTrainer, stopped and let go between steps by a callback."""
    import datasets
    import peft
    import transformers
    from trl import SFTConfig, SFTTrainer

    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(job.folder, dtype=torch.float32)
    if job.adapters and job.dtype == "bfloat16":
        model = model.to(torch.bfloat16)  # what is frozen, in two bytes
    rows = conversations(job, model.config.vocab_size)
    masks = [[int(place >= len(ids) * (1 - ANSWER)) for place in range(len(ids))] for ids in rows]
    records = datasets.Dataset.from_dict({"input_ids": rows, "completion_mask": masks})
    packed = {"packing": True, "packing_strategy": "bfd"} if job.packing == "packed" else {"packing": False}
    options = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=job.batch, max_steps=10**6, save_strategy="no",
        learning_rate=RATE, lr_scheduler_type="constant", adam_beta1=0.9, adam_beta2=0.999, weight_decay=0.0,
        max_grad_norm=1.0, logging_strategy="no", report_to=[], use_cpu=True, bf16=job.dtype == "bfloat16",
        disable_tqdm=True, max_length=job.context, gradient_checkpointing=False, completion_only_loss=True,
        train_sampling_strategy="group_by_length" if job.packing == "padded" else "random", **packed,
    )  # fmt: skip
    lora = peft.LoraConfig(r=RANK, lora_alpha=32, target_modules=LORA_LAYERS, task_type="CAUSAL_LM")
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class Gate(transformers.TrainerCallback):
        """Waits before each step."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            go.acquire()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()

    tokenizer = transformers.AutoTokenizer.from_pretrained(job.folder)
    tokenizer.pad_token = tokenizer.eos_token
    trainer = SFTTrainer(
        model=model, args=options, train_dataset=records, processing_class=tokenizer, callbacks=[Gate()],
        peft_config=lora if job.adapters else None,
    )  # fmt: skip
    ids_BT = torch.tensor([rows[0]])
    with torch.no_grad():
        loss = float(model(ids_BT, labels=ids_BT).loss)
    threading.Thread(target=trainer.train, daemon=True).start()

    def steps(count: int) -> None:
        for _ in range(count):
            go.release()
            done.acquire()

    return steps, loss


def main() -> None:
    """Serve the protocol until standard input ends."""
    from fromzero.device import keep_freed_memory, peak_memory_bytes

    answers, sys.stdout = sys.stdout, sys.stderr
    job = Job(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    np.random.seed(0)
    if job.system == "fromzero":
        keep_freed_memory()
    steps, loss = trl(job) if job.system == "trl" else ours(job)
    print(json.dumps({"loss": loss}), file=answers, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        steps(int(line))
        seconds, peak = time.perf_counter() - started, peak_memory_bytes(torch.device("cpu"))
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main()
