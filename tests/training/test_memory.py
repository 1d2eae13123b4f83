"""When memory runs out: fewer rows at once, the same batch, the same gradients."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fromzero.errors import Interrupted, UserError
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Experts
from fromzero.model.experts import mixtures
from fromzero.parallel import Fleet, World
from fromzero.training.memory import OUT_OF_MEMORY, MicroBatches, ran_out
from fromzero.training.objective import NextToken
from tests.conftest import Chain
from tests.model.shapes import DECODERS
from tests.training.test_trainer import CONFIG, trainer, weights

SHAPE = replace(DECODERS["qwen 2 moe"], dropout=0.3)
ids = torch.randint(0, 50, (8, 13), generator=torch.Generator().manual_seed(0))


class Narrow(NextToken):
    """Runs out of memory above so many rows, after it has drawn numbers and counted tokens."""

    limit = 2
    error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def forward(self, **batch: Tensor) -> Tensor:
        loss = super().forward(**batch)
        if len(batch["targets_BT"]) > self.limit:
            raise self.error
        return loss


def fleet_of(limit: int, world: World | None = None, config: ModelConfig = SHAPE) -> Fleet:
    objective = Narrow(Transformer(config)).train()
    objective.limit = limit
    return Fleet(objective, world or World(torch.device("cpu")))


def run(micro_batches: MicroBatches) -> dict[str, Any]:
    torch.manual_seed(5)
    fleet = micro_batches.fleet
    batch = fleet.objective.prepare(ids[:, :-1], ids[:, 1:], 0)  # type: ignore[operator]
    found: dict[str, Any] = {"loss": micro_batches.gradients(batch, 96)}
    found |= {name: p.grad for name, p in fleet.named_parameters()}
    found["load"] = [m.load_E for m in fleet.parts[0].modules() if hasattr(m, "load_E")]
    return found


@pytest.mark.parametrize("begins", [None, 4])
def test_the_step_is_that_of_the_smaller_micro_batch_to_the_bit(
    begins: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = MicroBatches(begins, fleet_of(2), tmp_path)
    found, wanted = run(narrow), run(MicroBatches(2, fleet_of(99), tmp_path))
    assert narrow.rows == 2
    assert "going on with 2" in capsys.readouterr().err
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name == "load":
            assert all(torch.equal(a, b) for a, b in zip(found[name], value, strict=True)), "tokens counted twice"
        else:
            assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name
    again = MicroBatches(begins, fleet_of(99), tmp_path)
    again.load_state_dict(json.loads(json.dumps(narrow.state_dict())))
    assert again.rows == 2


def test_not_even_one_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not suffice for one sequence"):
        run(MicroBatches(None, fleet_of(0), tmp_path))


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    fleet = fleet_of(2)
    fleet.objective.error = RuntimeError("a bug")  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="a bug"):
        run(MicroBatches(None, fleet, tmp_path))
    assert not ran_out(RuntimeError("a bug"))


def test_one_of_several_ranks_leaves_word_and_all_begin_with_less(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"  # which is not there before the first of them
    worlds = [World(torch.device("cpu"), rank, 2) for rank in range(2)]
    for batches in [MicroBatches(None, fleet_of(2, world), folder) for world in worlds]:
        with pytest.raises(Interrupted, match="going on with 4") as stopped:
            run(batches)
        assert stopped.value.code == OUT_OF_MEMORY
    assert len(list(folder.iterdir())) == 2, "ranks that run out together do not write to the same file"
    assert MicroBatches(None, fleet_of(2, worlds[1]), folder).rows == 4
    assert MicroBatches(2, fleet_of(2, worlds[1]), folder).rows == 2


def test_a_step_that_is_left_out_leaves_no_loads_of_experts(chain: Chain, tmp_path: Path) -> None:
    run = trainer(chain, tmp_path, experts=Experts(count=4, width=16, balance="bias"))
    run.guard.allows = lambda *_: False  # type: ignore[method-assign]
    run.fit()
    assert all(mixture.load_E is None for mixture in mixtures(run.model)), "a resumed run would not have them"


def test_a_run_goes_on_and_remembers(chain: Chain, tmp_path: Path) -> None:
    def trained(folder: Path, limit: int, **changes: Any) -> Any:
        made = trainer(chain, folder, replace(CONFIG, steps=6, **changes))
        made.objective.__class__ = Narrow
        made.objective.limit = limit  # type: ignore[assignment]
        made.fit()
        return made

    narrow, small = trained(tmp_path / "narrow", 2), trained(tmp_path / "small", 99, micro_batch_size=2)
    assert all(torch.equal(weights(narrow)[name], tensor) for name, tensor in weights(small).items())
    assert trained(tmp_path / "narrow", 99).micro_batches.rows == 2


LIMITED = """
import resource
from pathlib import Path
import torch
from fromzero.model import ModelConfig, Transformer
from fromzero.parallel import Fleet, World
from fromzero.training.memory import MicroBatches
from fromzero.training.objective import NextToken

torch.set_num_threads(1)
model = Transformer(ModelConfig(vocab_size=64, context=1024, layers=2, width=128, heads=2)).train()
objective = NextToken(model)
batches = MicroBatches(None, Fleet(objective, World(torch.device("cpu"))), Path("."))
ids = torch.zeros(16, 1025, dtype=torch.long)
batches.gradients(objective.prepare(ids[:1, :-1], ids[:1, 1:], 0), 1024)  # threads and buffers are there now
model.zero_grad()
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (130 << 20), resource.RLIM_INFINITY))
loss = batches.gradients(objective.prepare(ids[:, :-1], ids[:, 1:], 0), 16 * 1024)
assert batches.rows < 16, batches.rows
print("rows", batches.rows, loss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_a_computers_memory_that_really_runs_out() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("rows ")
    assert "going on with 8" in done.stderr
