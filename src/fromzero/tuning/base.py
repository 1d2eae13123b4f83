"""What tuning stages have in common: the model that they start from, the run of the trainer, the files at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from fromzero.artifact import Artifact, digest_source
from fromzero.console import say
from fromzero.dataset.sources import bring
from fromzero.device import keep_freed_memory, return_freed_memory
from fromzero.errors import UserError
from fromzero.inference.opening import check_model
from fromzero.interop import load_model
from fromzero.interop.adapters import FOLDER as ADAPTERS
from fromzero.interop.adapters import save_apart
from fromzero.interop.huggingface import unquantized
from fromzero.model import Transformer
from fromzero.model.adapters import AdapterConfig, adapters, add_adapters
from fromzero.model.heads import HeadedTransformer
from fromzero.model.narrow import to_compute
from fromzero.model.quantized import quantized
from fromzero.model.rounding import FewBits, round_model
from fromzero.parallel import Fleet, ParallelConfig, World, parallelize
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.training.checkpoint import Resume
from fromzero.training.compiling import Choices, choose_compiled
from fromzero.training.finish import finish_model
from fromzero.training.objective import Objective
from fromzero.training.settings import INCIDENTAL, TrainConfig
from fromzero.training.together import Plan, make_together
from fromzero.training.trainer import CHECKPOINTS, Loader, Look, Stateful, Trainer
from fromzero.tuning.retained import Retained

_PRETRAINING = ("tokens", "warmup_tokens", "batch_size_start", "parametrization", "objective")


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """What every tuning stage is told."""

    model: Path
    """The model to start from: a folder, a GGUF file, or the name of a downloaded one."""
    output: Path
    """Folder for the tuned model."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How it is trained."""
    adapters: AdapterConfig | None = None
    """Train small matrices beside the frozen model (LoRA); null trains all of it."""
    keep: Literal["auto", "merged", "apart"] = "auto"
    """What is written of adapters: a model with them merged, or a folder with them alone, in PEFT's layout, which opens
    as a model while its base is there. auto: merged, but apart from a base in few bits."""
    quantize: FewBits = "none"
    """Round the frozen model to so many bits when it is opened, for adapters on it (QLoRA). It is in memory in full
    until then; a folder made by `fromzero convert --quantize` never is."""
    retain: Path | None = None
    """Text of the kind that the model knew before, to measure what is forgotten: tokens, a corpus or a text file."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How many devices share it; start them with torchrun."""
    resume: Resume = "auto"
    """From which checkpoint a run that was cut off goes on: auto takes the newest that is whole, a number the one of
    that step, never none."""

    def __post_init__(self) -> None:
        for name in _PRETRAINING:
            if getattr(self.train, name) != getattr(TrainConfig, name):
                raise UserError(f"train.{name} is for pretraining; leave it out")
        if not self.adapters and (self.quantize != "none" or self.keep == "apart"):
            raise UserError("quantize, and keep: apart, are for adapters; give adapters too, such as adapters.rank 16")


IGNORED = ("model", "output", "retain", "parallel", "resume", *INCIDENTAL)
"""Settings that do not change the result, or whose contents count through digests instead."""


@dataclass(frozen=True)
class Base:
    """The model that a stage starts from, on its device."""

    config: TuningConfig
    model: Transformer
    tokenizer: Tokenizer
    choices: Choices


def tune_together(
    config: TuningConfig,
    inputs: Mapping[str, Path | None],
    make: Callable[[Any, Path, World], Mapping[str, Any]],
    version: int = 1,
    ignore: tuple[str, ...] = (),
) -> Artifact:
    """Bring a tuned model up to date, on all ranks. Raises UserError.

    inputs: what is read beside the model, by the setting that names it; these settings count by what is in the files.
    make(config, folder, world): trains in `folder` and returns the summary; its config has the model's path here.
    """

    def open_plan() -> Plan:
        here = replace(config, model=check_model(config.model))
        read = {"model": here.model, "retain": config.retain, **inputs}
        digests = {name: digest_source(bring(path)) for name, path in read.items() if path is not None}
        return Plan(config, digests, lambda folder, world: make(here, folder, world))

    ignore = (*IGNORED, *ignore, *inputs)
    timeout = config.parallel.timeout
    return make_together(open_plan, config.output, config.train.device, timeout, version=version, ignore=ignore)


def open_base(config: TuningConfig, folder: Path, world: World, load: Callable[..., Transformer] = load_model) -> Base:
    """Load the model, with adapters if the config has them. Raises UserError.

    What is frozen is in few bits or in the compute dtype; what is learned is in fp32.
    """
    choices = Choices(folder / CHECKPOINTS, world)
    dtype = choices.dtype(config.train.dtype)
    frozen = dtype if config.adapters and config.train.dtype != "float8" else torch.float32
    model = load(config.model, dtype, None if config.quantize != "none" else frozen)
    if next(adapters(model), None):
        raise UserError(f"{config.model} is adapters on weights in few bits; tune what they were made on")
    few_bits = next(quantized(model), None) is not None
    (return_freed_memory if few_bits or config.quantize != "none" else keep_freed_memory)()
    if config.adapters:
        if config.quantize != "none" and few_bits:
            raise UserError(f"{config.model} has weights in few bits already; leave quantize out")
        round_model(model, config.quantize)
        to_compute(model, frozen)
        names = add_adapters(model, config.adapters, config.train.seed)
        say(f"adapters of rank {config.adapters.rank} on {len(names)} layers; all else is frozen")
    elif few_bits:
        raise UserError(f"{config.model} has weights in few bits: train adapters on it, or tune what it was made of")
    return Base(config, model.to(world.device), load_tokenizer(config.model), choices)


def _check_shared(config: TuningConfig, model: Transformer) -> None:
    """Raise UserError where adapters can't be spread over devices as the config says, or kept apart."""
    ways = {name: getattr(config.parallel, name) for name in ("tensor", "pipeline", "expert")}
    if next(quantized(model), None) and (cut := [name for name, size in ways.items() if size > 1]):
        raise UserError(f"parallel.{cut[0]} does not cut weights in few bits; use parallel.shard or more replicas")
    if config.adapters and config.adapters.decomposed and config.parallel.tensor > 1:
        raise UserError("parallel.tensor does not cut adapters with adapters.decomposed; use parallel.shard")
    if config.keep == "apart" and isinstance(model, HeadedTransformer):
        raise UserError("keep: apart is for models without a head of their own; use keep: merged")


def fit(
    config: TuningConfig,
    base: Base,
    objective: Objective,
    make_loader: Callable[[Fleet], Loader],
    look: Look,
    folder: Path,
    world: World,
    parts: Mapping[str, Stateful] | None = None,
) -> tuple[Any | None, dict[str, Any]]:
    """Train; the whole model on the first rank (None on others), and the last figures.

    make_loader: given where the model is placed, the batches of this rank. parts: what else a checkpoint keeps.
    """
    train, model = config.train, base.model
    _check_shared(config, model)
    if not objective.learns_ahead:
        model.ahead.requires_grad_(False)
    rows = train.micro_batch_size or max(1, train.batch_size // world.size)
    compiled = choose_compiled(model, train.compile, rows, model.config.context, base.choices)
    fleet = parallelize(objective, config.parallel, world, train.recompute, compiled)
    objective.whole_rows = False
    objective.rank, objective.ranks = fleet.data_rank, fleet.data_size
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"model: {model.parameter_count():,} parameters, {learned:,} of them learned; {train.steps:,} steps")
    loader = make_loader(fleet)
    look = _with_retained(look, config, base.tokenizer)
    trainer = Trainer(model, loader, train, folder / "run", look, objective, fleet, config.resume)
    trainer.parts |= parts or {}
    base.choices.keep()
    figures = trainer.fit()
    return fleet.whole_model(), figures


def _with_retained(look: Look, config: TuningConfig, tokenizer: Tokenizer) -> Look:
    """With what is forgotten, where config.retain names text."""
    if config.retain is None:
        return look
    retained = Retained.open(config.retain, tokenizer, config.train.validation_tokens)
    return lambda model, step: {**look(model, step), **retained.measure(model)}


def finish(whole: Any | None, base: Base, folder: Path, figures: Mapping[str, Any], ends: str | None) -> dict[str, Any]:
    """Write the model's files, or its adapters alone, on the first rank; the summary. ends: see finish_model."""
    config = base.config
    if whole is None:
        return {}
    if _apart(config, whole):
        assert config.adapters
        family = save_apart(whole, folder, config.adapters, config.model, config.quantize)
        say(f"adapters with the names of {family} are in {folder / ADAPTERS}, apart from {config.model}")
        return {"architecture": family, "parameters": whole.parameter_count(), **figures}
    merged: Any = unquantized(whole)
    return finish_model(merged, folder, config.model, base.tokenizer, ends, figures)


def _apart(config: TuningConfig, model: Transformer) -> bool:
    if config.keep != "auto" or isinstance(model, HeadedTransformer):
        return config.keep == "apart"
    return next(adapters(model), None) is not None and next(quantized(model), None) is not None
