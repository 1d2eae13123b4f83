"""Learning from preferences on a real tiny model: rows, log-probabilities, the reference, ranks, and that it learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fromzero.dataset.formats import Judged, Preference
from fromzero.errors import UserError
from fromzero.interop import load_model
from fromzero.model.adapters import AdapterConfig
from fromzero.model.linear_loss import IGNORE
from fromzero.parallel import ParallelConfig, World, parallelize
from fromzero.parallel.fleet import full
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.training import TrainConfig
from fromzero.training.metrics import read_metrics
from fromzero.training.trainer import CHECKPOINTS
from fromzero.tuning.grading import prompt_ids
from fromzero.tuning.preference import REFERENCE, PreferenceConfig, align_preferences
from fromzero.tuning.preferring import Judgements, Pairs, reference_logprobs
from fromzero.tuning.sequences import (
    Encoder,
    RowLoader,
    Rows,
    answer_logprobs,
    deal,
    judged_rows,
    load_rows,
    measured,
    pair_rows,
)
from tests.parallel.ranks import run_ranks
from tests.tuning.samples import asked, said

WORDS = ["river", "stone", "cloud", "letter", "garden"]
WORLD = World(torch.device("cpu"))


def pairs(count: int) -> list[Preference]:
    """The better answers have no digits, and lengths differ."""
    return [
        Preference(
            asked(f"Where is story {n}?"),
            said("Near the " + "old " * (n % 3) + WORDS[n % 5]),
            said(f"In room {n % 37}."),
        )
        for n in range(count)
    ]


def judged(count: int) -> list[Judged]:
    return [Judged(p.prompt, p.chosen if n % 2 else p.rejected, n % 2 == 1) for n, p in enumerate(pairs(count))]


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("preferences") / "pairs.jsonl"
    records = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs(200)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return load_tokenizer(tiny_model)


TRAIN = TrainConfig(
    steps=20, batch_size=8, learning_rate=3e-3, warmup_steps=2, validate_every=20, log_every=1, dtype="float32"
)


def settings(model: Path, preferences: Path, output: Path, **changes: Any) -> PreferenceConfig:
    given = {"behaviour": r"^[^0-9]*$", "max_tokens": 16, "asked": 4, "train": TRAIN, **changes}
    return PreferenceConfig(model=model, preferences=preferences, output=output, **given)


def test_an_answer_has_the_ids_that_follow_its_prompt(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer, 64)
    prompt = prompt_ids(tokenizer, asked("Where is story 3?"))
    ids, targets = encoder(asked("Where is story 3?"), said(" in room 0."))
    answer = [*tokenizer.encode_ordinary(" in room 0."), tokenizer.special_tokens["<|im_end|>"]]
    assert ids.tolist() == prompt + answer
    assert targets.tolist() == [IGNORE] * (len(prompt) - 1) + answer + [IGNORE]


def test_without_a_template_both_texts_are_encoded_alone(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.chat_template = None
    text, encode = "The river near the mountain is quiet.", tokenizer.encode_ordinary
    cut = next(n for n in range(1, len(text)) if encode(text[:n]) + encode(text[n:]) != encode(text))
    prompt, answer = text[:cut], text[cut:]  # together they are what a model never says after the prompt
    parts = [*encode(prompt), *encode(answer)]
    ids, targets = Encoder(tokenizer, 64)(asked(prompt), said(answer))
    end = tokenizer.end_of_text
    assert ids.tolist() == [end, *parts, end]
    assert (targets >= 0).sum() == len(tokenizer.encode_ordinary(answer)) + 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_too_long_is_cut_from_that_side_and_counted(tokenizer: Tokenizer, side: Any) -> None:
    whole = Encoder(tokenizer, 99)(asked("Where is story 3?"), said("In room 0."))
    encoder = Encoder(tokenizer, len(whole.ids_T) - 3, side)
    cut = encoder(asked("Where is story 3?"), said("In room 0."))
    assert cut.ids_T.tolist() == (whole.ids_T[3:] if side == "left" else whole.ids_T[:-3]).tolist()
    assert (cut.targets_T >= 0).sum() == (whole.targets_T >= 0).sum() - (3 if side == "right" else 0)
    assert encoder.notes() == ["1 sequences were cut"]


def test_rows_that_teach_nothing_are_dropped_and_counted(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer, 8, "right")
    assert not pair_rows(encoder, pairs(3)).rows
    assert "3 rows were dropped: nothing is left of an answer" in encoder.notes()
    encoder = Encoder(tokenizer, 7)  # where the two differ is cut off
    same = [Preference(asked("Where?"), said("It is so " + "and so" * 9), said("It was so " + "and so" * 9))]
    assert not pair_rows(encoder, same).rows
    assert "1 rows were dropped: both sides are equal" in encoder.notes()


def test_what_was_dropped_before_is_told(tokenizer: Tokenizer, tmp_path: Path) -> None:
    lines = [{"prompt": "Where?", "chosen": "Here.", "rejected": other} for other in ("There.", "Here.", "")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    load_rows(encoder := Encoder(tokenizer, 64), tmp_path / "pairs.jsonl")
    assert {*encoder.notes()} == {"1 records were dropped: equal sides", "1 records were dropped: empty answer"}


def test_partners_for_the_divergence_may_say_the_same(tokenizer: Tokenizer) -> None:
    encoder, places = Encoder(tokenizer, 99), (1, 2, 2, 3, 1)
    given = [Judged(asked(f"Is it {n}?"), said("Yes." if n < 3 else "No."), n < 3) for n in places]
    rows = judged_rows(encoder, given).rows
    words = [tokenizer.decode([t for t in other.targets_T.tolist() if t >= 0]) for _, other in rows]
    assert [word.startswith("Yes") for word in words] == [True, False, False, True, True]  # the last goes round
    assert not judged_rows(encoder, given[:1] * 3).rows
    assert encoder.notes() == ["3 rows were dropped: there is no answer to another prompt"]


def test_log_probabilities_are_those_of_the_answer_whatever_the_padding(tiny_model: Path, tokenizer: Tokenizer) -> None:
    model = load_model(tiny_model).eval()
    rows = pair_rows(Encoder(tokenizer, 64), pairs(5))
    batch = deal(rows, np.arange(5))
    found = answer_logprobs(model, batch["ids_BT"], batch["targets_BT"])
    ids, targets = batch["ids_BT"].flatten(0, 1), batch["targets_BT"].flatten(0, 1)
    each = model(ids).log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    by_hand = (each * (targets >= 0)).sum(1).view(5, 2)
    torch.testing.assert_close(found, by_hand, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(measured(model, rows), by_hand.detach(), atol=2e-5, rtol=1e-5)
    left = [torch.zeros_like(ids), torch.full_like(ids, IGNORE), torch.zeros_like(ids, dtype=torch.bool)]
    for place, (sequence, answer) in enumerate(side for row in rows.rows for side in row):
        for tensor, value in zip(left, (sequence, answer, np.ones(len(sequence), bool)), strict=True):
            tensor[place, -len(sequence) :] = torch.from_numpy(value)
    torch.testing.assert_close(answer_logprobs(model, *left).view(5, 2), by_hand, atol=2e-5, rtol=1e-5)


def _gradients(folder: Path, loss: str, micro: int | None, ranks: int) -> tuple[float, Tensor, float]:
    """Loss, gradient of the embedding and KL estimate of a batch that reaches into the next epoch."""
    torch.manual_seed(0)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    encoder = Encoder(tokenizer, 64)
    rows = judged_rows(encoder, judged(10)) if loss == "kto" else pair_rows(encoder, pairs(10))
    rows.beside["reference_P2"] = measured(model, rows)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    train = TrainConfig(micro_batch_size=micro, batch_size=8)
    config = PreferenceConfig(model=folder, preferences=folder, output=folder, loss=loss, train=train)  # type: ignore[arg-type]
    objective = (Judgements if loss == "kto" else Pairs)(model, config)
    world = World(torch.device("cpu"), torch.distributed.get_rank() if ranks > 1 else 0, ranks)
    fleet = parallelize(objective, ParallelConfig(shard=ranks if loss == "kto" else 1), world)
    objective.rank, objective.ranks = fleet.data_rank, fleet.data_size
    loader = RowLoader(rows, 8, 0, fleet.data_rank, fleet.data_size)
    loader.next_batch()
    batch = objective.train().complete(loader.next_batch(), 0)
    count = fleet.sum(objective.count(batch))
    assert count == 8
    found = fleet.gradients(batch, micro, count)
    kl = float(batch["kl_P"][0]) if loss == "kto" else 0.0
    grad = model.token_embedding.weight.grad
    assert grad is not None
    return found, full(grad), kl


@pytest.mark.parametrize("loss", ["sigmoid", "orpo", "kto"])
def test_neither_micro_batches_nor_ranks_change_the_loss(tiny_model: Path, loss: str) -> None:
    alone = _gradients(tiny_model, loss, None, 1)
    assert (alone[2] > 0) is (loss == "kto")
    for found in (_gradients(tiny_model, loss, 1, 1), *run_ranks(2, _gradients, tiny_model, loss, 1, 2)):
        torch.testing.assert_close(found, alone, atol=1e-6, rtol=1e-5)


def test_the_reference_is_worked_out_once(tiny_model: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, rows, file = load_model(tiny_model), pair_rows(Encoder(tokenizer, 64), pairs(6)), tmp_path / "reference"
    first = reference_logprobs(model, rows, file, WORLD)
    torch.testing.assert_close(first, measured(model, rows))
    with torch.no_grad():
        model.final_norm.weight.mul_(3)  # type: ignore[union-attr]
    assert torch.equal(reference_logprobs(model, rows, file, WORLD), first)
    fewer = Rows(rows.rows[:3], {})
    assert reference_logprobs(model, fewer, file, WORLD).shape == (3, 2)


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(
    tiny_model: Path, preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = TrainConfig(**{**vars(TRAIN), "steps": 8, "checkpoint_every": 3})
    straight = align_preferences(settings(tiny_model, preferences, tmp_path / "straight", train=train)).path
    deal_next = RowLoader.next_batch

    def cut_off(self: RowLoader) -> dict[str, Tensor]:
        if self.position == 5:
            raise KeyboardInterrupt
        return deal_next(self)

    config = settings(tiny_model, preferences, tmp_path / "cut", train=train)
    with monkeypatch.context() as patched:
        patched.setattr(RowLoader, "next_batch", cut_off)
        with pytest.raises(KeyboardInterrupt):
            align_preferences(config)
    kept = tmp_path / "cut" / CHECKPOINTS / REFERENCE
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr("fromzero.tuning.preferring.measured", _only_held_out(measured, 10))
    cut = align_preferences(config).path
    assert before
    assert not kept.exists()
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (cut, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _only_held_out(function: Any, most: int) -> Any:
    """Stands in the way of working out the reference anew."""

    def guarded(model: Any, rows: Rows) -> Tensor:
        assert len(rows.rows) < most * 3
        return function(model, rows)

    return guarded


def test_it_learns_what_is_preferred(tiny_model: Path, preferences: Path, tmp_path: Path) -> None:
    config = settings(tiny_model, preferences, tmp_path / "out")
    assert align_preferences(config).summary["preference_accuracy"] > 0.85
    outcome = json.loads((tmp_path / "out" / "run" / "outcome.json").read_text())
    changes = {change["name"]: change for change in outcome["changes"]}
    told_apart = changes["held-out pairs told apart"]
    assert told_apart["before"] is None
    assert told_apart["after"] > 0.85
    assert changes["answers with the behaviour"]["count"] == 4
    assert {"length of held-out answers, tokens", "chosen answers that are likelier"} <= changes.keys()
    assert len(outcome["examples"]) == 4
    lines = [line for line in read_metrics(tmp_path / "out" / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert lines[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert lines[-1]["margin"] > lines[0]["margin"]
    assert lines[-1]["chosen_reward"] - lines[-1]["rejected_reward"] == pytest.approx(lines[-1]["margin"], abs=1e-4)


@pytest.mark.parametrize("loss", ["robust", "hinge", "ipo", "orpo", "simpo"])
def test_every_loss_lowers_itself(tiny_model: Path, preferences: Path, tmp_path: Path, loss: str) -> None:
    beta = 2.0 if loss == "simpo" else 0.1
    config = settings(tiny_model, preferences, tmp_path / "out", loss=loss, beta=beta, label_smoothing=0.1)
    assert align_preferences(config).summary["preference_accuracy"] > 0.85
    looks = [line for line in read_metrics(tmp_path / "out" / "run" / "metrics.jsonl") if line["kind"] == "look"]
    assert looks[-1]["validation_loss"] < looks[0]["validation_loss"]


def test_kto_learns_from_answers_alone_and_adapters_from_a_frozen_reference(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "judged.jsonl"
    records = [{"prompt": j.prompt, "completion": j.completion, "label": j.good} for j in judged(200)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    few_bits = {"adapters": AdapterConfig(rank=4), "quantize": "int8"}
    config = settings(tiny_model, file, tmp_path / "out", loss="kto", **few_bits)
    assert align_preferences(config).summary["preference_accuracy"] > 0.85
    lines = [line for line in read_metrics(tmp_path / "out" / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert lines[-1]["good_reward"] > lines[-1]["bad_reward"]
    changes = json.loads((tmp_path / "out" / "run" / "outcome.json").read_text())["changes"]
    assert [c["count"] for c in changes if c["name"] == "held-out pairs told apart"] == [0]  # no interval
    outcome = json.loads((tmp_path / "out" / "run" / "outcome.json").read_text())
    (told_apart,) = (change for change in outcome["changes"] if change["name"] == "held-out pairs told apart")
    assert told_apart["count"] == 0  # a few answers make many pairs, which are not independent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "beta must be above 0"),
        ({"label_smoothing": 0.5}, "below 0.5"),
        ({"parallel": ParallelConfig(context=2)}, "context of 1"),
        ({"behaviour": "("}, "no regular expression"),
        ({"loss": "kto"}, '"completion"'),
    ],
)
def test_what_makes_no_sense_is_refused(
    tiny_model: Path, preferences: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        align_preferences(settings(tiny_model, preferences, tmp_path / "out", **changes))
