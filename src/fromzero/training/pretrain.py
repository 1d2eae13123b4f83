"""`fromzero pretrain`: token shards -> base model.

The output folder becomes a model that other programs open; what was measured on the way is in its `run/`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fromzero.artifact import Artifact
from fromzero.console import say
from fromzero.dataset import TokenShards
from fromzero.dataset.mixture import TrainingData, open_data
from fromzero.dataset.prefetch import Prefetch
from fromzero.dataset.stream import open_stream
from fromzero.device import keep_freed_memory
from fromzero.errors import UserError
from fromzero.evaluation import shards_perplexity
from fromzero.files import digest_file, digest_of
from fromzero.inference import SamplingConfig, generate_text
from fromzero.model import ModelConfig, Transformer
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.training.checkpoint import Resume
from fromzero.training.compiling import Choices, choose_compiled
from fromzero.training.cost import Estimate, ThisMachine, estimate_run, used_memory
from fromzero.training.depth import dial
from fromzero.training.finish import finish_model
from fromzero.training.mup import fold, parametrized, scale_weights
from fromzero.training.objective import Objective
from fromzero.training.objectives import (
    Kind,
    build_model,
    held_out_loss,
    make_objective,
    objective_kind,
    row_length,
)
from fromzero.training.samples import SampleLog
from fromzero.training.schedule import Growing, in_steps, sequences
from fromzero.training.settings import INCIDENTAL, TrainConfig
from fromzero.training.together import Plan, make_together
from fromzero.training.trainer import CHECKPOINTS, Look, Trainer

VERSION = 1


@dataclass(frozen=True)
class PretrainConfig:
    """What is trained on what."""

    tokens: Path | None
    """Folder of token shards, made by `fromzero pack`, or a mixture of several, made by `fromzero mix`; null encodes
    the documents of `corpus` with `tokenizer` while the model trains."""
    output: Path
    """Folder for the model."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Shape of the model; its vocabulary size comes from the tokenizer."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How it is trained."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How many devices share it; start them with torchrun."""
    prompts: tuple[str, ...] = ()
    """Beginnings that the model goes on from at several points of training; empty takes some from held-out text."""
    sample_points: int = 4
    """At how many points after the start samples are taken, evenly spread, each at the next look; 0 takes none."""
    corpus: Path | None = None
    """Corpus, made by `fromzero corpus build`, in place of tokens."""
    tokenizer: Path | None = None
    """Tokenizer to encode the corpus with: a folder made by `tokenizer train`, or any with a tokenizer.json."""
    resume: Resume = "auto"
    """From which checkpoint a run that was cut off goes on: auto takes the newest that is whole, a number the one of
    that step, never none. What torchrun or Slurm start again by themselves goes on as with auto."""

    print_schedule: bool = False
    """Show the learning rate and the size of batches over the run, and do nothing else."""

    def __post_init__(self) -> None:
        if (self.tokens is None) != (self.corpus is not None) or (self.corpus is None) != (self.tokenizer is None):
            raise UserError("name what to train on: either tokens, or corpus and tokenizer")
        if self.tokens is None and self.train.packing == "best_fit":
            raise UserError("train.packing best_fit needs packed tokens: run fromzero pack, and name them as tokens")

    def open(self) -> TrainingData:
        """What is trained on. Raises UserError when it can't be read."""
        if self.corpus and self.tokenizer:
            return open_stream(self.corpus, self.tokenizer)
        assert self.tokens is not None
        return open_data(self.tokens, self.train.packing)


def settled(config: PretrainConfig, data: TrainingData) -> PretrainConfig:
    """The same with what depth, tokens and warmup_tokens mean for this data, in the settings that they stand for."""
    vocab_size = load_tokenizer(data.path).vocab_size if config.model.depth else 0
    model, train = dial(config.model, config.train, vocab_size)
    length = row_length(objective_kind(train, model), model)
    return replace(config, model=model, train=in_steps(train, length))


def pretrain(config: PretrainConfig) -> Artifact:
    """Train a model from random weights on token shards; skipped when up to date, resumed when it was cut off.

    Started by torchrun, all ranks call it; the first one writes the folder. Raises UserError.
    """

    def open_plan() -> Plan:
        data = config.open()
        final = settled(config, data)
        return Plan(final, {"tokens": data.digest}, lambda folder, world: _pretrain(final, data, folder, world))

    ignore = ("tokens", "corpus", "tokenizer", "output", "parallel", "resume", "print_schedule", *INCIDENTAL)
    device, timeout = config.train.device, config.parallel.timeout
    return make_together(open_plan, config.output, device, timeout, version=VERSION, ignore=ignore)


def _pretrain(config: PretrainConfig, data: TrainingData, folder: Path, world: World) -> Mapping[str, Any]:
    keep_freed_memory()
    tokenizer = load_tokenizer(data.path)
    _check_length(config.train, data.windows)
    choices = Choices(folder / CHECKPOINTS, world)
    dtype = choices.dtype(config.train.dtype)
    kind = objective_kind(config.train, config.model)
    shape = config.model.with_vocab(tokenizer.vocab_size)
    model = build_model(parametrized(shape, config.train), config.train.seed, dtype).to(world.device)
    scale_weights(model, shape.width, config.train)
    parameters = model.parameter_count()
    objective = make_objective(kind, model, tokenizer, config.train)
    expected = _estimate(config, model, world) if world.first else None
    train = config.train
    length = row_length(kind, config.model)
    rows = train.micro_batch_size or max(1, train.batch_size // world.size)
    compiled = choose_compiled(model, train.compile, rows, config.model.context, choices)
    fleet = parallelize(objective, config.parallel, world, train.recompute, compiled)
    objective.rank, objective.ranks = fleet.data_rank, fleet.data_size
    loader = data.loader(length, train.batch_size, train.seed, fleet.data_rank, fleet.data_size)
    loader = Growing(loader, train) if train.batch_size_start else loader
    say(
        f"model: {parameters:,} parameters; {train.steps:,} steps of "
        f"{train.batch_size * length:,} tokens; {dtype} on {world.device}"
    )
    look = _look(config, kind, folder / "run", tokenizer, data)
    of = {"tokenizer": digest_of([digest_file(f) for f in sorted(data.path.glob("tokenizer*.json"))])}
    with Prefetch(loader) as ahead:
        trainer = Trainer(model, ahead, train, folder / "run", look, objective, fleet, config.resume, of)
        choices.keep()
        started = time.perf_counter()
        figures = trainer.fit()
        seconds = time.perf_counter() - started
    if expected and trainer.began < train.steps:
        step = figures["seconds"] / train.steps
        figures["estimate_error"] = expected.compare(used_memory(world.device), step, seconds, trainer.began)
    whole = fleet.whole_model()
    if whole is None:
        return {}
    fold(whole, shape)
    return finish_model(whole, folder, data.path, tokenizer, None, figures)


def _estimate(config: PretrainConfig, model: Transformer | EncoderDecoder, world: World) -> Estimate:
    """What it will take, said before it begins."""
    hardware, price = ThisMachine(world.device, world.size), config.train.price
    program = used_memory(world.device) - sum(p.nbytes for p in model.parameters())
    shape, dtype = model.config, model.compute_dtype
    expected = estimate_run(shape, config.train, config.parallel, hardware, dtype, price, max(0.0, program))
    expected.say()
    return expected


def _check_length(train: TrainConfig, windows: int | None) -> None:
    """A mixture is dealt once. Raises UserError when it is too short, and says so when it is not dealt to its end."""
    needed = sequences(train.steps, train)
    most = 0 if windows is None else Growing(None, train).steps(windows)
    if windows is not None and needed > windows:
        raise UserError(
            f"{train.steps} steps of {train.batch_size} windows need {needed:,}, but the mixture has {windows:,}; "
            f"lower train.steps to {most}, or mix more tokens"
        )
    if windows is not None and most > train.steps:
        say(f"training ends after {needed / windows:.1%} of the mixture; {most} steps take all")


def _look(config: PretrainConfig, kind: Kind, folder: Path, tokenizer: Tokenizer, data: TrainingData) -> Look:
    """What the trainer asks for now and then: held-out loss, and at some points samples, of models that write text."""
    writes = config.model.kind == "decoder"
    length = min(12, config.model.context // 2)
    prompts = config.prompts or held_out_beginnings(data.held_out, tokenizer, length)
    samples = SampleLog(folder)

    row = row_length(kind, config.model)
    sources = {name: shards for name, shards in data.sources.items() if len(shards) > row}

    def measured(objective: Objective, held_out: TokenShards, tokens: int) -> dict[str, float]:
        if kind == "causal":
            return shards_perplexity(objective.model, held_out, tokenizer, tokens, marks=objective.marks)
        return held_out_loss(objective, held_out, row, tokens)

    def look(model: Transformer, step: int) -> dict[str, Any]:
        objective = make_objective(kind, model, tokenizer, config.train)
        tokens = config.train.validation_tokens
        figures = measured(objective, data.held_out, tokens)
        for source, shards in sources.items():
            found = measured(objective, shards, tokens // len(sources))
            figures |= {f"{name}/{source}": value for name, value in found.items()}
        if writes and is_sample_step(step, config.train, config.sample_points):
            samples.write(step, [(prompt, _continue(model, tokenizer, prompt)) for prompt in prompts])
        return {f"validation_{name}": value for name, value in figures.items()}

    return look


def is_sample_step(step: int, train: TrainConfig, points: int) -> bool:
    """Whether samples are taken at this look: at the start, and when one of the evenly spread points was passed."""

    def passed(step: int) -> int:
        return step * points // train.steps

    return points > 0 and (step == 0 or passed(step) > passed(step - 1 - (step - 1) % train.validate_every))


def _continue(model: Transformer, tokenizer: Tokenizer, prompt: str) -> str:
    model.eval()
    ids = [tokenizer.end_of_text, *tokenizer.encode_ordinary(prompt)]
    sampling = SamplingConfig(max_tokens=64, seed=0, temperature=0.7)
    return generate_text(model, tokenizer, ids, sampling, goes_on=bool(prompt)).text()


def held_out_beginnings(shards: TokenShards, tokenizer: Tokenizer, length: int, count: int = 3) -> Sequence[str]:
    """The first words of a few held-out documents, evenly spread."""
    starts = shards.boundaries[:-1]
    if not len(starts):
        raise UserError("the held-out split has no document; build the corpus with a larger validation share")
    chosen = starts[:: max(1, len(starts) // count)][:count]
    beginnings = [tokenizer.decode(shards[int(s) + 1 : int(s) + 1 + length].tolist()) for s in chosen]
    return [text.replace("\ufffd", "").strip() or "The" for text in beginnings]
