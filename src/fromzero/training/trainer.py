"""The training loop, one for all objectives: batch, gradients, step; now and then a look, a line, a checkpoint."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fromzero.console import Reporter, human_count, progress, say
from fromzero.device import matmul_flops, peak_memory_bytes
from fromzero.errors import Interrupted
from fromzero.model import Transformer
from fromzero.parallel import Fleet, ParallelConfig, World, parallelize
from fromzero.parallel.fleet import Batch
from fromzero.parallel.watch import Watch
from fromzero.training.checkpoint import Checkpoints, Resume
from fromzero.training.faults import Guard, whereabouts
from fromzero.training.memory import MicroBatches
from fromzero.training.metrics import MetricsLog
from fromzero.training.objective import NextToken, Objective
from fromzero.training.optimizers import make_optimizer, set_share
from fromzero.training.precision import LossScaler, use_float8
from fromzero.training.schedule import learning_rate
from fromzero.training.settings import TrainConfig
from fromzero.training.signals import StopRequest, stop_on_signals
from fromzero.training.trackers import check_trackers, open_trackers
from fromzero.training.watch import Inspector, profiled

CHECKPOINTS = "run/checkpoints"  # below the folder of the model that is made


class Stateful(Protocol):
    """A part of the run that a resumed one has to go on with."""

    def state_dict(self) -> dict[str, Any]:
        """Where it is, as JSON can hold it; the same on all ranks."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go there."""


class Loader(Stateful, Protocol):
    """What the loop needs of its data."""

    def next_batch(self) -> tuple[Tensor, Tensor] | Batch:
        """ids and targets, (B, T) each, targets of -100 carry no loss; or all that the objective takes, by its names,
        with the rows of this rank first, `ids_BT` and `targets_BT` among them.
        """


Look = Callable[[Transformer, int], dict[str, Any]]
"""(model, step) -> figures to write down: validation loss, samples."""


class Trainer:
    """Trains a model in `folder`, going on from the newest checkpoint there."""

    def __init__(
        self,
        model: Transformer,
        loader: Loader,
        config: TrainConfig,
        folder: Path,
        look: Look,
        objective: Objective | None = None,
        fleet: Fleet | None = None,
        resume: Resume = "auto",
        identity: Mapping[str, str] | None = None,
    ) -> None:
        """objective: the next token's loss unless one is given. fleet: where it is placed, or this one device.

        resume, identity: from which checkpoint to go on, and what it must have in common; see Checkpoints.
        """
        check_trackers(config.track)
        self.model, self.loader, self.config, self.folder, self.look = model, loader, config, folder, look
        self.objective = objective or NextToken(model)
        world = World(model.token_embedding.weight.device) if fleet is None else fleet.world
        self.fleet = fleet or parallelize(self.objective, ParallelConfig(), world, config.recompute)
        self.world, self.device = world, world.device
        self.optimizer = make_optimizer(self.fleet.named_parameters(), config, model.config.width)
        self.guard = Guard(config.skip_spikes)
        self.scaler = LossScaler(model.compute_dtype)
        self.micro_batches = MicroBatches(config.micro_batch_size, self.fleet, folder / Path(CHECKPOINTS).name)
        for part in self.fleet.parts:
            use_float8(part, config.dtype)
        self.watch = Watch(world)
        self.resume = resume
        self.checkpoints = Checkpoints(
            folder / Path(CHECKPOINTS).name,
            self.fleet,
            self.optimizer,
            config.keep_checkpoints,
            config.keep_best,
            identity,
            config.seed,
        )
        self.parts: dict[str, Stateful] = {
            "loader": loader,
            "guard": self.guard,
            "scaler": self.scaler,
            "micro_batches": self.micro_batches,
        }
        """What else is in a checkpoint."""
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.began = 0
        """Step that this part of the run began at."""
        self.last: dict[str, Any] = {}
        self.looked: tuple[int, float | None] = (-1, None)
        """Step of the last look, and its held-out loss."""

    def fit(self) -> dict[str, Any]:
        """Train to the end; the last figures, and totals of tokens and seconds over all parts of the run.

        Raises Interrupted after a checkpoint when a signal asked for a stop, and UserError when the loss or a gradient
        is not finite: before the optimizer step, so the weights are still good.
        """
        torch.manual_seed(self.config.seed + self.fleet.draws)  # for dropout; weights and data have their own
        self._resume()
        self.began = self.step
        trackers = open_trackers(self.config, self.folder) if self.world.first else []
        self.log = MetricsLog(self.folder, self.step, self.world.first, trackers)
        try:
            with self.watch, stop_on_signals() as request:
                self._loop(request)
        finally:
            self.log.close()
            self.checkpoints.wait()
        return {**self.last, "steps": self.step, "tokens": self.tokens, "seconds": self.seconds}

    def _loop(self, request: StopRequest) -> None:
        config = self.config
        if self.step == 0:
            self._look()
        recorded = config.profile_steps if self.world.first else 0
        with (
            progress("training", config.steps, "steps", self.step) as bar,
            profiled(recorded, self.folder / "profile", self.device) as tick,
        ):
            while self.step < config.steps:
                self._train_step(bar)
                tick()
                stop = self.world.largest(request.signal or 0)  # a signal to any rank is one to all, at the same step
                last = self.step == config.steps
                if last or self.step % config.validate_every == 0:
                    self._look()
                if last or stop or self.step % config.checkpoint_every == 0:
                    self._save()
                if stop:
                    request.signal = stop
                    what = f"stopped after step {self.step} of {config.steps}"
                    if failure := self.checkpoints.wait():
                        what += f" without a checkpoint of it ({failure})"
                    there = "the last one" if failure else "there"
                    again = "" if self.resume == "auto" else " with resume: auto"
                    raise Interrupted(
                        f"{what}; run the same command again{again} to go on from {there}", request.exit_code
                    )

    def _train_step(self, bar: Reporter) -> None:
        started = time.perf_counter()
        rate = learning_rate(self.step, self.config)
        set_share(self.optimizer, rate / self.config.learning_rate)
        self.model.train()
        waited = time.perf_counter()
        self.watch.note(self.step + 1, "data")
        dealt = self.loader.next_batch()
        if isinstance(dealt, tuple):
            ids, batch = dealt[0], self.objective.prepare(*dealt, self.step)
        else:
            ids, batch = dealt["ids_BT"], self.objective.complete(dealt, self.step)
        tokens = ids.numel() * self.fleet.data_size
        waited = time.perf_counter() - waited
        count = self.fleet.sum(self.objective.count(batch))
        every = self.config.inspect_every
        inspector = Inspector(self.fleet) if every and (self.step + 1) % every == 0 else None
        self.watch.note(self.step + 1, "gradients")
        loss = self.micro_batches.gradients(batch, count, self.scaler.scale)
        self.scaler.unscale(self.fleet)
        norm = self.fleet.clip(self.config.max_gradient_norm)
        self.watch.note(self.step + 1, "update")
        if count == 0:
            say(f"warning: nothing in the batch of step {self.step + 1} carries loss; the step is left out")
        elif self.scaler.allows(loss, norm) and self.guard.allows(
            self.step + 1, loss, norm, lambda: self._whereabouts(batch, count)
        ):
            if inspector:
                inspector.before_step(norm, self.config.max_gradient_norm)
            self.optimizer.step()
            self.fleet.balance_experts()
        self.fleet.clear()
        self.step += 1
        self.tokens += tokens
        seconds = time.perf_counter() - started
        self.seconds += seconds
        speed = tokens / seconds
        cost = "" if self.config.price is None else f"  cost {self._cost():.2f}"
        bar(self.step, f"loss {loss:.3f}  lr {rate:.2e}  {human_count(speed)} tokens/s{cost}")
        if self.step % self.config.log_every == 0 or self.step in (1, self.config.steps):
            self.last = {"loss": loss, "gradient_norm": norm, "learning_rate": rate, "counted_tokens": count}
            self.last |= {"skipped": self.guard.skipped, **self._noted()}
            if self.scaler.active:
                self.last |= {"loss_scale": self.scaler.scale, "overflows": self.scaler.overflows}
            figures = {**self.last, "data_seconds": waited, **self._speed_figures(speed)}
            self.log.write({"step": self.step, "kind": "train", **figures})
        if inspector:
            self.log.write({"step": self.step, "kind": "inspect", **inspector.figures()})
        self.objective.noted.clear()

    def _noted(self) -> dict[str, float]:
        """The means of what the objective noted in this step, over all ranks."""
        found = {}
        for name, (total, count) in sorted(self.objective.noted.items()):
            found[name] = self.fleet.total(total, "loss") / (self.fleet.total(count, "loss") or 1)
        return found

    def _whereabouts(self, batch: Batch, count: float) -> str:
        """What in the batch makes it no number, for a message about it."""
        return whereabouts(self.fleet, self.loader, batch, self.micro_batches.rows, count)

    def _speed_figures(self, tokens_per_second: float) -> dict[str, float]:
        return {
            "tokens": self.tokens,
            "tokens_per_second": tokens_per_second,
            **(self._used(tokens_per_second) if self.objective.whole_rows else {}),
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "seconds": self.seconds,
            **({} if self.config.price is None else {"cost": self._cost()}),
        }

    def _used(self, tokens_per_second: float) -> dict[str, float]:
        """FLOP/s, and their share of what the devices reach in plain matrix products (their practical peak)."""
        flops = tokens_per_second * self.fleet.blueprint.flops_per_token()
        size = 1024 if self.device.type == "cpu" else 8192
        peak = self.world.size * matmul_flops(self.model.compute_dtype, self.device.type, size)
        return {"flops_per_second": flops, "mfu": flops / peak}

    def _cost(self) -> float:
        """Of all devices, for the steps so far; looks and checkpoints are not in it."""
        return (self.config.price or 0.0) * self.world.size * self.seconds / 3600

    def _look(self) -> None:
        self.watch.note(self.step, "look")
        whole = self.fleet.whole_model()
        figures = self.world.share({} if whole is None else self.look(whole, self.step))
        self.log.write({"step": self.step, "kind": "look", **figures})
        self.looked = self.step, figures.get("validation_loss")
        self.last |= {name: value for name, value in figures.items() if isinstance(value, int | float)}

    def _save(self) -> None:
        self.watch.note(self.step, "save")
        state: dict[str, Any] = {"run": {"tokens": self.tokens, "seconds": self.seconds, "last": dict(self.last)}}
        state |= {name: part.state_dict() for name, part in self.parts.items()}
        loss = self.looked[1] if self.looked[0] == self.step else None
        self.checkpoints.save(self.step, state, loss)

    def _resume(self) -> None:
        found = self.checkpoints.resume(self.resume)
        if found is None:
            return
        self.step, state = found
        run = state["run"]
        self.tokens, self.seconds, self.last = run["tokens"], run["seconds"], dict(run["last"])
        for name in self.parts.keys() & state.keys():
            self.parts[name].load_state_dict(state[name])
        say(f"going on from step {self.step} of {self.config.steps}")
