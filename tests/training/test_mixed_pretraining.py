"""Two languages of a corpus, packed alone, mixed and learned from: the recipe that comes with fromzero, made small."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fromzero.artifact import open_artifact
from fromzero.dataset.mixture import open_data
from fromzero.errors import UserError
from fromzero.explain import ReportConfig, write_report
from fromzero.model import ModelConfig, Transformer
from fromzero.recipe import RunConfig, run_recipe
from fromzero.training import PretrainConfig, TrainConfig, Trainer, pretrain
from fromzero.training.metrics import read_metrics
from tests.conftest import sentences

CHINESE = "从前有一座山，山里有一座庙，庙里有一个老和尚，正在给小和尚讲故事。他讲的是河边的石头和早晨的云。"
TRAIN = TrainConfig(
    steps=12, batch_size=4, warmup_steps=2, validate_every=12, checkpoint_every=5, log_every=1, validation_tokens=512,
    device="cpu", dtype="float32",
)  # fmt: skip
SHAPE = {"layers": 1, "width": 16, "heads": 2, "context": 16}
PHASES = [{"tokens": 640, "sources": {"en": 3, "zh": 1}}, {"tokens": 192, "sources": {"zh": 1}}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe, but for its report."""
    folder = tmp_path_factory.mktemp("mixed")
    documents = folder / "documents"
    documents.mkdir()
    for i in range(8):
        (documents / f"en{i}.txt").write_text(f"Story {i}.\n{sentences(i, 8)}", encoding="utf-8")
        lines = [CHINESE.replace("一", f"{i}{n}") for n in range(3)]
        (documents / f"zh{i}.txt").write_text("\n".join(lines), encoding="utf-8")
    changes: dict[str, Any] = {"corpus.inputs": [str(documents)], "corpus.workers": 1, "corpus.validation": 0.2}
    changes |= {"tokenizer.vocab_size": 320, "tokens.context": 16, "tokens.phases": PHASES}
    changes |= {"base.model": SHAPE, "base.train": dataclasses.asdict(TRAIN), "base.sample_points": 0}
    run_recipe(RunConfig(Path("two-languages"), folder / "run", until_stage="base", set=changes))
    return folder / "run"


def trainer(run: Path, folder: Path) -> Trainer:
    model = Transformer(ModelConfig(vocab_size=320, **SHAPE), seed=0)  # type: ignore[arg-type]
    return Trainer(model, open_data(run / "tokens").loader(16, 4, 0), TRAIN, folder, lambda model, step: {})


def test_each_source_is_looked_at_beside_the_whole(run: Path) -> None:
    looks = [line for line in read_metrics(run / "base" / "run" / "metrics.jsonl") if line["kind"] == "look"]
    assert looks
    for look in looks:
        low, high = sorted([look["validation_loss/en"], look["validation_loss/zh"]])
        assert low < look["validation_loss"] < high
    error = open_artifact(run / "base", "model").summary["estimate_error"]
    assert error.keys() == {"memory", "step", "total"}


def test_a_run_that_was_cut_off_in_the_first_phase_ends_with_the_same_bits(run: Path, tmp_path: Path) -> None:
    straight = trainer(run, tmp_path / "straight")
    straight.fit()
    cut = trainer(run, tmp_path / "cut")
    deal = cut.loader.next_batch

    def deal_seven() -> Any:
        if cut.step == 7:
            raise KeyboardInterrupt
        return deal()

    cut.loader.next_batch = deal_seven  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    resumed = trainer(run, tmp_path / "cut")
    resumed.fit()
    assert resumed.loader.state_dict() == straight.loader.state_dict()
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_mixture_is_learned_from_once_and_not_further(run: Path, tmp_path: Path) -> None:
    model = ModelConfig(**SHAPE)  # type: ignore[arg-type]
    config = PretrainConfig(run / "tokens", tmp_path / "model", model, dataclasses.replace(TRAIN, steps=14))
    with pytest.raises(
        UserError, match=r"14 steps of 4 windows need 56, .* has 52; lower train.steps to 13, or mix more"
    ):
        pretrain(config)


def test_the_report_has_the_table(run: Path) -> None:
    text = (write_report(ReportConfig(run)).path / "report.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.replace("\u00a0", " ").replace("**", "").splitlines()]
    found = {(row[0], row[1]): row[2:] for row in rows if row[0] in ("1", "2", "all") and row[1:2] in (["en"], ["zh"])}
    assert [*found] == [(phase, source) for phase in ("1", "2", "all") for source in ("en", "zh")]
    assert (found["1", "en"][0], found["1", "en"][-1]) == ("75.0 %", "75.0 %")
    assert [found[phase, "zh"][2] for phase in ("1", "2", "all")] == ["160", "192", "352"]
