"""Learning rates and batch sizes over a run, and runs measured in tokens."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.commands import main
from fromzero.dataset import TokenShards, WindowLoader
from fromzero.dataset.prefetch import Prefetch
from fromzero.errors import UserError
from fromzero.training.preview import plot
from fromzero.training.schedule import Growing, batch_size, in_steps, learning_rate, sequences
from fromzero.training.settings import TrainConfig
from tests.conftest import Chain

SCHEDULES: Any = ("cosine", "linear", "wsd", "inverse_sqrt", "constant")
configs = st.builds(
    TrainConfig,
    steps=st.integers(1, 300),
    warmup_steps=st.integers(0, 350),
    schedule=st.sampled_from(SCHEDULES),
    final_learning_rate=st.floats(0, 1),
    decay_share=st.floats(0.01, 1),
)
growing = st.builds(
    lambda start, times, over: TrainConfig(batch_size_start=start, batch_size=start * times, batch_warmup_steps=over),
    st.integers(1, 8),
    st.integers(1, 9),
    st.integers(0, 60),
)


@given(configs)
def test_rates_rise_in_the_warm_up_and_never_after_it(config: TrainConfig) -> None:
    rates = [learning_rate(step, config) for step in range(config.steps)]
    warmup = min(config.warmup_steps, config.steps)
    assert all(0 <= rate <= config.learning_rate * (1 + 1e-12) for rate in rates)
    assert all(a < b for a, b in pairwise(rates[:warmup]))
    after = rates[max(0, warmup - 1) :]
    if config.schedule != "wsd":  # whose decay may begin before the warm-up ends
        assert all(a >= b - 1e-15 for a, b in pairwise(after))
        assert not warmup or rates[warmup - 1] == config.learning_rate
    if config.schedule in ("cosine", "linear", "wsd") and config.steps > warmup + 1:
        assert rates[-1] == pytest.approx(config.learning_rate * config.final_learning_rate, abs=1e-12)


@given(configs)
def test_rates_make_no_jumps(config: TrainConfig) -> None:
    """Neighbours differ by no more than the steepest part of the schedule allows."""
    config = replace(config, warmup_steps=min(config.warmup_steps, config.steps // 3), decay_share=0.5)
    rates = [learning_rate(step, config) / config.learning_rate for step in range(config.steps)]
    warmup = max(1, config.warmup_steps)
    shortest = max(1, min(warmup, config.steps - 1 - config.warmup_steps, round(config.decay_share * config.steps)))
    steepest = max(math.pi / 2 / shortest, 1 - math.sqrt(warmup / (warmup + 1)))
    assert all(abs(a - b) <= steepest + 1e-9 for a, b in pairwise(rates))


def test_each_schedule_by_hand() -> None:
    config = TrainConfig(steps=101, warmup_steps=10, learning_rate=2.0, final_learning_rate=0.1, decay_share=0.2)

    def at(step: int, schedule: Any) -> float:
        return learning_rate(step, replace(config, schedule=schedule))

    assert all(at(4, schedule) == 1.0 and at(9, schedule) == 2.0 for schedule in SCHEDULES)
    assert [at(55, "cosine"), at(55, "linear")] == pytest.approx([1.1, 1.1])
    assert [at(100, schedule) for schedule in SCHEDULES[:3]] == pytest.approx([0.2] * 3)
    assert at(80, "wsd") == 2.0
    assert at(90, "wsd") == pytest.approx(1.1)
    assert at(39, "inverse_sqrt") == pytest.approx(1.0)
    assert at(100, "constant") == 2.0


@given(growing)
def test_batches_grow_evenly_in_multiples_of_the_first(config: TrainConfig) -> None:
    sizes = [batch_size(step, config) for step in range(90)]
    start = config.batch_size_start or 0
    assert all(a <= b for a, b in pairwise(sizes))
    assert all(size % start == 0 for size in sizes)
    assert not config.batch_warmup_steps or sizes[0] == start
    assert all(size == config.batch_size for size in sizes[config.batch_warmup_steps :])
    for steps in (0, 1, 17, 80):
        assert sequences(steps, config) == sum(sizes[:steps])
        assert Growing(None, config).steps(sum(sizes[:steps])) == steps
        assert Growing(None, config).steps(sum(sizes[: steps + 1]) - 1) == steps


@given(growing, st.integers(1, 10**6), st.integers(1, 64))
def test_tokens_become_the_steps_that_they_suffice_for(config: TrainConfig, tokens: int, length: int) -> None:
    made = in_steps(replace(config, tokens=tokens, warmup_tokens=tokens // 10), length)
    assert made.tokens is made.warmup_tokens is None
    assert made.steps == 1 or sequences(made.steps, config) * length <= tokens
    assert sequences(made.steps + 1, config) * length > tokens
    assert 1 <= made.warmup_steps <= made.steps
    assert in_steps(made, length) == made


@pytest.mark.parametrize("ahead", [False, True])
def test_growing_batches_deal_the_same_windows_and_resume(chain: Chain, ahead: bool) -> None:
    config = TrainConfig(batch_size=6, batch_size_start=2, batch_warmup_steps=5)

    def loader(rank: int = 0, ranks: int = 1) -> Any:
        made = Growing(WindowLoader(TokenShards(chain.tokens, "train"), 16, 6, 0, rank, ranks), config)
        return Prefetch(made) if ahead else made

    plain = WindowLoader(TokenShards(chain.tokens, "train"), 16, 1)
    first, second, left, right = loader(), loader(), loader(0, 2), loader(1, 2)
    for step in range(8):
        ids_BT, _ = first.next_batch()
        assert len(ids_BT) == batch_size(step, config)
        assert all((row == plain.next_batch()[0][0]).all() for row in ids_BT)
        if step == 3:
            second.load_state_dict(first.state_dict())
        elif step > 3:
            assert (second.next_batch()[0] == ids_BT).all()
        halves = left.next_batch()[0], right.next_batch()[0]
        assert (halves[0] == ids_BT[::2]).all()
        assert (halves[1] == ids_BT[1::2]).all()
    for one in (first, second, left, right):
        if ahead:
            one.__exit__(None, None, None)


def test_batches_that_ranks_cannot_share_are_refused(chain: Chain) -> None:
    config = TrainConfig(batch_size=6, batch_size_start=3, batch_warmup_steps=5)
    with pytest.raises(UserError, match="batch_size_start 3 is not a multiple of the 2 processes"):
        Growing(WindowLoader(TokenShards(chain.tokens, "train"), 16, 6, 0, 0, 2), config)
    with pytest.raises(UserError, match="batch_size_start"):
        in_steps(replace(config, batch_size_start=4), 16)


def test_the_plot_has_a_column_for_each_value() -> None:
    assert plot([1.0, 2.0, 4.0], 2) == ["  █", "▄██"]


def test_print_schedule_shows_it_and_trains_nothing(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    growth = "--train.batch_size_start 4 --train.batch_warmup_steps 20 --train.tokens 409600 --model.context 64"
    out = tmp_path / "out"
    arguments = ["pretrain", "--tokens", str(chain.tokens), "--output", str(out)]
    assert main([*arguments, *growth.split(), "--print_schedule"]) == 0
    shown = capsys.readouterr().err
    assert "learning rate, up to 0.001" in shown
    assert "sequences in a step, up to 16" in shown
    steps = in_steps(TrainConfig(tokens=409600, batch_size_start=4, batch_warmup_steps=20), 64).steps
    assert f"{steps:,} steps, 409k tokens" in shown
    assert "█" in shown
    assert not out.exists()
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    assert "--print_schedule" in capsys.readouterr().out
