"""One system of `pretraining.py`, in a process of its own so that its allocator and thread settings stay its own.

Standard input: a JSON object that describes the job, then lines with a number of steps to run. Standard output: one
JSON object for each line: first the loss before any step, then the seconds that the steps took.
"""

import contextlib
import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromzero.device import DTYPES, keep_freed_memory
from fromzero.interop.names import to_theirs
from fromzero.model import ModelConfig, Transformer
from fromzero.training.objective import counted, next_token_loss
from fromzero.training.optimizers.adam import AdamW, clip_gradients, decay_groups

LEARNING_RATE, BETAS, WEIGHT_DECAY, MAX_NORM = 1e-3, (0.9, 0.95), 0.1, 1.0
SEED = 0


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker is told."""

    system: str
    """fromzero, fromzero-gelu, fromzero-llama, nanogpt or transformers."""
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
    """Whether the C allocator keeps freed blocks."""
    nanogpt: str = ""
    """Checkout of nanoGPT."""


@dataclasses.dataclass(frozen=True)
class System:
    """A model with its optimizer, seen from outside."""

    loss: Callable[[], Tensor]
    """Mean loss of the batch, in nats."""
    step: Callable[[], None]
    """One whole training step."""
    other_loss: Callable[[], Tensor] | None = None
    """fromzero: the loss with the exact GELU, which nanoGPT uses, instead of GPT-2's."""


def batch(job: Job) -> tuple[Tensor, Tensor]:
    """The same random ids and targets in every worker."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, job.vocab, (job.batch, job.context + 1), generator=generator)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def gpt2_config(job: Job, activation: Any = "gelu_tanh") -> ModelConfig:
    """GPT-2's architecture in our settings."""
    return dataclasses.replace(llama_config(job), positions="learned", norm="layer", activation=activation, bias=True)


def llama_config(job: Job) -> ModelConfig:
    """Our own defaults: rotary positions, RMSNorm, SwiGLU."""
    return ModelConfig(vocab_size=job.vocab, context=job.context, layers=job.layers, width=job.width, heads=job.heads)


def fromzero_system(job: Job, config: ModelConfig) -> System:
    """The step of training/trainer.py, which takes the same functions."""
    ids, targets = batch(job)
    model = Transformer(config, SEED, DTYPES[job.dtype]).train()
    optimizer = AdamW(decay_groups(model.named_parameters(), WEIGHT_DECAY), LEARNING_RATE, BETAS)

    def loss() -> Tensor:
        return next_token_loss(model, ids, targets) / counted(targets)

    def step() -> None:
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        float(value.detach())
        clip_gradients(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def exact_gelu_loss() -> Tensor:
        exact = Transformer(dataclasses.replace(config, activation="gelu"), SEED)
        return next_token_loss(exact, ids, targets) / counted(targets)

    return System(loss, step, None if config.gated else exact_gelu_loss)


def nanogpt_system(job: Job) -> System:
    """nanoGPT's model.py with its own optimizer, stepped as its train.py does."""
    sys.path.insert(0, job.nanogpt)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    ids, targets = batch(job)
    shape = {"n_layer": job.layers, "n_head": job.heads, "n_embd": job.width}
    model = GPT(GPTConfig(block_size=job.context, vocab_size=job.vocab, dropout=0.0, bias=True, **shape)).train()
    # nanoGPT has GPT-2's names, with matrices stored (out, in) and not GPT-2's (in, out).
    weights = {
        name: tensor.t() if name.endswith(".weight") and tensor.dim() == 2 and ".h." in name else tensor
        for name, tensor in our_weights(job).items()
    }
    copy_weights(model, weights)
    optimizer = model.configure_optimizers(WEIGHT_DECAY, LEARNING_RATE, BETAS, "cpu")
    return peer_system(job, model, optimizer, lambda: model(ids, targets)[1])


def transformers_system(job: Job) -> System:
    """transformers' GPT-2 with torch's AdamW, fused as its Trainer has it by default."""
    import transformers

    transformers.logging.set_verbosity_error()
    ids, targets = batch(job)
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    shape = {"n_layer": job.layers, "n_head": job.heads, "n_embd": job.width, "n_positions": job.context}
    specials = {"bos_token_id": None, "eos_token_id": None, "use_cache": False}
    config = transformers.GPT2Config(vocab_size=job.vocab, **shape, **dropout, **specials)
    model = transformers.GPT2LMHeadModel(config).train()
    copy_weights(model, our_weights(job))
    groups = decay_groups(model.named_parameters(), WEIGHT_DECAY)
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)
    # shift_labels: our targets are already one token further on.
    return peer_system(job, model, optimizer, lambda: model(ids, labels=targets, shift_labels=targets).loss)


def peer_system(job: Job, model: torch.nn.Module, optimizer: Any, forward: Callable[[], Tensor]) -> System:
    """A training step as nanoGPT's train.py writes it; bfloat16 by autocast, as both peers do it."""

    def loss() -> Tensor:
        context = torch.autocast("cpu", torch.bfloat16) if job.dtype == "bfloat16" else contextlib.nullcontext()
        with context:
            return forward()

    def step() -> None:
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(value.detach())

    return System(loss, step)


def our_weights(job: Job) -> dict[str, Tensor]:
    """Our initial weights under GPT-2's names."""
    config = gpt2_config(job)
    return to_theirs(Transformer(config, SEED).state_dict(), config, "gpt2")


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


def build(job: Job) -> System:
    """The system that the job names."""
    builders: dict[str, Callable[[], System]] = {
        "fromzero": lambda: fromzero_system(job, gpt2_config(job)),
        "fromzero-gelu": lambda: fromzero_system(job, gpt2_config(job, "gelu")),
        "fromzero-llama": lambda: fromzero_system(job, llama_config(job)),
        "nanogpt": lambda: nanogpt_system(job),
        "transformers": lambda: transformers_system(job),
    }
    return builders[job.system]()


def main() -> None:
    """Serve the protocol until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # peers print; the protocol's stream is not for them
    job = Job(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(job.threads)
    if job.keep_memory:
        keep_freed_memory()
    system = build(job)
    with torch.no_grad():
        first = {"loss": float(system.loss())}
        if system.other_loss is not None and job.dtype == "float32":
            first["loss_exact_gelu"] = float(system.other_loss())
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            system.step()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), file=answers, flush=True)


if __name__ == "__main__":
    if Path(sys.path[0]).name == "bench":
        sys.path.pop(0)  # so that a peer's `import model` or `import common` can't find a file of ours
    main()
