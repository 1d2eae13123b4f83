"""One system of `training.py`, in a process of its own so that its allocator and thread settings stay its own.

Standard input: a JSON object that describes the job, then lines with a number of steps to run. Standard output: one
JSON object for each line: first the loss before any step, then the seconds that the steps took. Nothing of fromzero is
imported for a peer that doesn't need it, so that a peer may have an environment of its own.
"""

import contextlib
import dataclasses
import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_NORM = 1e-3, (0.9, 0.95), 0.1, 1.0
SEED = 0


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker is told."""

    system: str
    """One of the names in BUILDERS."""
    dtype: str
    """float32 or bfloat16."""
    layers: int
    width: int
    heads: int
    vocab: int
    context: int
    batch: int
    threads: int
    keep_memory: bool
    """Whether the C allocator keeps freed blocks: fromzero's setting."""
    compiled: bool
    """Whether peers whose own scripts compile the model on a CPU do so."""
    checkout: str = ""
    """Where a peer that is no package lies."""


@dataclasses.dataclass(frozen=True)
class System:
    """A model with its optimizer, seen from outside."""

    steps: Callable[[int], None]
    """Run so many whole training steps."""
    parameters: int
    first_loss: Callable[[], float] | None = None
    """Mean loss of the batch before any step, in nats; where weights are those of fromzero."""


def batch(job: Job) -> tuple[Tensor, Tensor]:
    """The same random ids and targets in every worker."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, job.vocab, (job.batch, job.context + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def fromzero_system(
    job: Job, llama: bool, activation: str = "gelu_tanh", compiled: bool = False, **train: Any
) -> System:
    """fromzero's own Trainer, with a loader that always deals the same batch; compiled: by --train.compile always."""
    from fromzero.console import console
    from fromzero.device import DTYPES
    from fromzero.model import Transformer
    from fromzero.parallel import ParallelConfig, World, parallelize
    from fromzero.training import TrainConfig, Trainer
    from fromzero.training.metrics import MetricsLog
    from fromzero.training.objective import NextToken, counted, next_token_loss

    console.quiet = True
    ids, targets = batch(job)
    model = Transformer(our_config(job, llama, activation), SEED, DTYPES[job.dtype])

    class Same:
        """The loader."""

        batch_size = job.batch

        def next_batch(self) -> tuple[Tensor, Tensor]:
            return ids, targets

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    config = TrainConfig(
        batch_size=job.batch, learning_rate=LEARNING_RATE, warmup_steps=0, schedule="constant", log_every=10**9,
        weight_decay=WEIGHT_DECAY, beta1=BETAS[0], beta2=BETAS[1], max_gradient_norm=MAX_NORM, **train,
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    objective = NextToken(model)
    world = World(torch.device("cpu"))
    fleet = parallelize(objective, ParallelConfig(), world, config.recompute, compiled and job.compiled)
    trainer = Trainer(model, Same(), config, folder, lambda model, step: {}, objective, fleet)
    trainer.log = MetricsLog(folder)

    def steps(count: int) -> None:
        for _ in range(count):
            trainer._train_step(lambda done, note="": None)

    @torch.no_grad()
    def loss() -> float:
        return float(next_token_loss(model, ids, targets)) / counted(targets)

    return System(steps, model.parameter_count(), loss)


def our_config(job: Job, llama: bool, activation: Any = "gelu_tanh") -> Any:
    """Our own defaults (rotary positions, RMSNorm, SwiGLU), or GPT-2's architecture."""
    from fromzero.model import ModelConfig

    shape = {"layers": job.layers, "width": job.width, "heads": job.heads, "context": job.context}
    gpt2 = {"positions": "learned", "norm": "layer", "activation": activation, "bias": True}
    return ModelConfig(vocab_size=job.vocab, **shape, **({} if llama else gpt2))


def nanogpt_system(job: Job) -> System:
    """nanoGPT's model.py with its own optimizer, stepped as its train.py does, uncompiled as its README has it."""
    sys.path.insert(0, job.checkout)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    shape = {"n_layer": job.layers, "n_head": job.heads, "n_embd": job.width}
    model = GPT(GPTConfig(block_size=job.context, vocab_size=job.vocab, dropout=0.0, bias=True, **shape)).train()
    # nanoGPT has GPT-2's names, with matrices stored (out, in) and not GPT-2's (in, out).
    weights = {
        name: tensor.t() if name.endswith(".weight") and tensor.dim() == 2 and ".h." in name else tensor
        for name, tensor in our_weights(job).items()
    }
    copy_weights(model, weights)
    optimizer = model.configure_optimizers(WEIGHT_DECAY, LEARNING_RATE, BETAS, "cpu")
    ids, targets = batch(job)
    return loop_system(job, model, optimizer, lambda: model(ids, targets)[1])


def nanochat_system(job: Job) -> System:
    """nanochat's GPT and its Muon with AdamW, stepped as its base_train.py does, compiled as there."""
    os.environ["NANOCHAT_DTYPE"] = job.dtype
    os.environ["NANOCHAT_BASE_DIR"] = "/nonexistent"
    sys.path.insert(0, job.checkout)
    from nanochat.gpt import GPT, GPTConfig  # type: ignore[import-not-found]

    shape = {"n_layer": job.layers, "n_head": job.heads, "n_kv_head": job.heads, "n_embd": job.width}
    with torch.device("meta"):
        model = GPT(GPTConfig(sequence_len=job.context, vocab_size=job.vocab, window_pattern="L", **shape))
    model.to_empty(device="cpu")
    model.init_weights()
    optimizer = model.setup_optimizer(weight_decay=WEIGHT_DECAY)
    called = torch.compile(model, dynamic=False) if job.compiled else model
    ids, targets = batch(job)

    def steps(count: int) -> None:
        for _ in range(count):
            loss = called(ids, targets)
            loss.backward()
            optimizer.step()
            model.zero_grad(set_to_none=True)
            loss.item()

    return System(steps, sum(p.numel() for p in model.parameters()))


def litgpt_system(job: Job) -> System:
    """litgpt's GPT as a Llama, stepped as its pretrain.py does: compiled, fused AdamW, bfloat16 by autocast."""
    from litgpt import GPT, Config  # type: ignore[import-not-found]
    from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]

    config = Config(
        block_size=job.context, vocab_size=job.vocab, padded_vocab_size=job.vocab, n_layer=job.layers, n_head=job.heads,
        n_embd=job.width, rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP", intermediate_size=-(-8 * job.width // 3 // 32) * 32,
    )  # fmt: skip
    model = GPT(config).train()
    model.lm_head.weight = model.transformer.wte.weight
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.02)
    called = torch.compile(model) if job.compiled else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    ids, targets = batch(job)
    return loop_system(job, model, optimizer, lambda: chunked_cross_entropy(called(ids), targets))


def loop_system(job: Job, model: Any, optimizer: Any, forward: Callable[[], Tensor]) -> System:
    """A plain training loop, as nanoGPT and litgpt write it; bfloat16 by autocast."""

    def loss() -> Tensor:
        context = torch.autocast("cpu", torch.bfloat16) if job.dtype == "bfloat16" else contextlib.nullcontext()
        with context:
            return forward()

    def steps(count: int) -> None:
        for _ in range(count):
            value = loss()
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            float(value.detach())

    def first() -> float:
        with torch.no_grad():
            return float(loss())

    return System(steps, sum(p.numel() for p in model.parameters()), first)


def transformers_system(job: Job) -> System:
    """transformers' own Trainer on its GPT-2, stopped and let go between steps by a callback."""
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers_model(job)
    ids, targets = batch(job)
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class Gate(transformers.TrainerCallback):
        """Waits before each step."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            go.acquire()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done.release()

    class Same(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            while True:
                for row, wanted in zip(ids, targets, strict=True):
                    yield {"input_ids": row, "labels": wanted, "shift_labels": wanted}

    options = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=job.batch, max_steps=10**6, save_strategy="no",
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", adam_beta1=BETAS[0], adam_beta2=BETAS[1],
        weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_NORM, logging_strategy="no", report_to=[], use_cpu=True,
        bf16=job.dtype == "bfloat16", disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=options, train_dataset=Same(), callbacks=[Gate()])
    threading.Thread(target=trainer.train, daemon=True).start()

    def steps(count: int) -> None:
        for _ in range(count):
            go.release()
            done.acquire()

    @torch.no_grad()
    def first() -> float:
        return float(model(ids, labels=targets, shift_labels=targets).loss)

    return System(steps, sum(p.numel() for p in model.parameters()), first)


def transformers_model(job: Job) -> Any:
    """GPT-2 with our weights."""
    import transformers

    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    shape = {"n_layer": job.layers, "n_head": job.heads, "n_embd": job.width, "n_positions": job.context}
    specials = {"bos_token_id": None, "eos_token_id": None, "use_cache": False}
    config = transformers.GPT2Config(vocab_size=job.vocab, **shape, **dropout, **specials)
    model = transformers.GPT2LMHeadModel(config).train()
    copy_weights(model, our_weights(job))
    return model


def our_weights(job: Job) -> dict[str, Tensor]:
    """Our initial weights under GPT-2's names."""
    from fromzero.interop.huggingface import layout_of, put_together
    from fromzero.interop.names import shape_of
    from fromzero.model import Transformer

    model = Transformer(our_config(job, llama=False), SEED)
    _, plan = layout_of(model)
    state = model.state_dict()
    return {n: put_together(parts, state, shape_of(parts, state), torch.float32) for n, parts in plan.items()}


def copy_weights(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Overwrite every parameter of a peer; KeyError or RuntimeError when names or shapes don't fit."""
    parameters = dict(model.named_parameters())
    parameters.pop("lm_head.weight", None)  # tied to the token embedding
    if "transformer.wte.weight" not in parameters:  # tied the other way round, and listed under the head's name
        parameters["transformer.wte.weight"] = model.get_parameter("transformer.wte.weight")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights.pop(name))
    if weights:
        raise KeyError(f"the peer has no {sorted(weights)}")


BUILDERS: dict[str, Callable[[Job], System]] = {
    "fromzero": lambda job: fromzero_system(job, llama=False),
    "fromzero-gelu": lambda job: fromzero_system(job, llama=False, activation="gelu"),
    "fromzero-llama": lambda job: fromzero_system(job, llama=True),
    "fromzero-muon": lambda job: fromzero_system(job, llama=True, optimizer="muon"),
    "fromzero-compiled": lambda job: fromzero_system(job, llama=False, compiled=True),
    "fromzero-llama-compiled": lambda job: fromzero_system(job, llama=True, compiled=True),
    "fromzero-muon-compiled": lambda job: fromzero_system(job, llama=True, compiled=True, optimizer="muon"),
    "nanogpt": nanogpt_system,
    "transformers": transformers_system,
    "litgpt": litgpt_system,
    "nanochat": nanochat_system,
}


def main() -> None:
    """Serve the protocol until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # peers print; the protocol's stream is not for them
    job = Job(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(job.threads)
    if job.keep_memory:
        from fromzero.device import keep_freed_memory

        keep_freed_memory()
    system = BUILDERS[job.system](job)
    loss = system.first_loss() if system.first_loss is not None else None
    print(json.dumps({"loss": loss, "parameters": system.parameters}), file=answers, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        system.steps(int(line))
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), file=answers, flush=True)


if __name__ == "__main__":
    if Path(sys.path[0]).name == "bench":
        sys.path.pop(0)  # so that a peer's `import model` or `import common` can't find a file of ours
    main()
