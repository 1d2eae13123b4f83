"""Compiled blocks compute what they did, and the probe takes them only where they work and are faster."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._dynamo
from torch import Tensor

from fromzero.model import ModelConfig, Transformer
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.training import compiling
from fromzero.training.compiling import Choices, choose_compiled
from fromzero.training.objective import NextToken

CPU = World(torch.device("cpu"))
SHAPE = ModelConfig(vocab_size=50, context=32, layers=10, width=32, heads=2)
ids = torch.randint(0, 50, (2, 33), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def errors() -> Iterator[None]:
    """Whether the compiler's errors are passed over is put back."""
    with torch._dynamo.config.patch(suppress_errors=False):
        yield


def test_asked_for_is_asked_for(tmp_path: Path) -> None:
    model = Transformer(replace(SHAPE, layers=1))
    assert choose_compiled(model, "always", 2, 32, Choices(tmp_path, CPU))
    assert not choose_compiled(model, "never", 2, 32, Choices(tmp_path, CPU))


@pytest.mark.parametrize(("compiled", "chosen"), [(0.5, True), (1.5, False)])
def test_the_faster_is_taken_and_said(
    compiled: float, chosen: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seconds = iter((1.0, compiled, compiled, 1.0))
    monkeypatch.setattr(compiling, "_seconds", lambda *_: next(seconds))
    for _ in range(2):  # the second time it would be measured the other way round
        choices = Choices(tmp_path / "run", CPU)
        assert choose_compiled(Transformer(replace(SHAPE, layers=1)), "auto", 2, 32, choices) == chosen
        choices.keep()
    assert ("blocks are compiled" in capsys.readouterr().err) == chosen


def test_a_run_that_goes_on_has_the_dtype_that_it_began_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured = iter((torch.bfloat16, torch.float32))
    monkeypatch.setattr(compiling, "pick_dtype", lambda *_: next(measured))
    begun = Choices(tmp_path / "run", CPU)
    assert begun.dtype("auto") == torch.bfloat16
    assert not list(tmp_path.iterdir()), "a run that is refused leaves nothing behind"
    begun.keep()
    assert Choices(tmp_path / "run", CPU).dtype("auto") == torch.bfloat16


def test_what_does_not_compile_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(torch, "compile", broken)
    model = Transformer(replace(SHAPE, layers=1))
    assert not choose_compiled(model, "auto", 2, 32, Choices(tmp_path, CPU))
    assert "does not work here (RuntimeError: no compiler)" in capsys.readouterr().err
    assert model.blocks[0]._compiled is None


def gradients(compiled: bool, recompute: str) -> dict[str, Tensor]:
    objective = NextToken(Transformer(SHAPE)).train()
    fleet = parallelize(objective, ParallelConfig(), CPU, recompute, compiled)  # type: ignore[arg-type]
    loss = fleet.gradients(objective.prepare(ids[:, :-1], ids[:, 1:], 0), None, 64)
    found = {name: p.grad for name, p in fleet.named_parameters() if p.grad is not None}
    return {"loss": torch.tensor(loss), **found}


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_compiled_blocks_give_the_same_gradients_and_one_program(recompute: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    wanted, found = gradients(False, "none"), gradients(True, recompute)
    assert found.keys() == wanted.keys(), "names stay"
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4)
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] <= 2, "layers share what was compiled"
    assert not counted["graph_break"]


@pytest.mark.slow
def test_the_probe_compiles_for_real(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    choose_compiled(Transformer(SHAPE), "auto", 2, 32, Choices(tmp_path, CPU))
    assert "ms a block" in capsys.readouterr().err
