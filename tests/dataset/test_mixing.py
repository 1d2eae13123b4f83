"""The arithmetic of mixtures: weights, epochs and tokens agree or are refused, and windows add up."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero.config import from_mapping
from fromzero.dataset.mixing import MixConfig, Phase, Source, check_epochs, deal, plan, shares, tabulate
from fromzero.errors import UserError

BILLION = 1_000_000_000
# Table 2.2 of Brown et al. 2020: tokens, weight in the mix, epochs elapsed when training for 300B tokens.
GPT3 = {
    "Common Crawl": (410, 60, 0.44),
    "WebText2": (19, 22, 2.9),
    "Books1": (12, 8, 1.9),
    "Books2": (55, 8, 0.43),
    "Wikipedia": (3, 3, 3.4),
}


def config(sources: dict[str, Any], **settings: Any) -> MixConfig:
    entries = {name: {"tokens": "tokens", **entry} for name, entry in sources.items()}
    return from_mapping(MixConfig, {"sources": entries, "output": "mix", "context": 10, **settings}, "mix.yaml")


def drawn(sources: dict[str, Any], windows: dict[str, int], **settings: Any) -> list[dict[str, int]]:
    return [counts for _, counts in plan(config(sources, **settings), windows)]


def test_the_weights_of_gpt3_sum_to_101_percent() -> None:
    weights = {name: weight for name, (_, weight, _) in GPT3.items()}
    with pytest.raises(UserError, match=r"the weights of the sources sum to 1\.01, not 1; .* ratios: whole numbers"):
        shares({name: weight / 100 for name, weight in weights.items()}, "the sources", weights)
    assert shares(weights, "the sources", weights)["Common Crawl"] == pytest.approx(60 / 101)


def test_of_gpt3_only_common_crawl_agrees_with_its_epochs() -> None:
    told = {}
    for name, (available, weight, epochs) in GPT3.items():
        try:
            check_epochs(name, weight / 100, 300 * BILLION, available * BILLION, epochs)
        except UserError as error:
            told[name] = str(error)
    assert told.keys() == GPT3.keys() - {"Common Crawl"}
    assert told["WebText2"] == (
        "WebText2: a weight of 0.22 in 300,000,000,000 tokens makes 3.474 epochs of the 19,000,000,000 that it has, "
        "not 2.9; change the weight to 0.1837, or the epochs to 3.474, or give it 22,758,620,690 tokens"
    )


def test_a_plan_of_gpt3() -> None:
    sources = {name: {"weight": weight} for name, (_, weight, _) in GPT3.items()}
    windows = {name: available * BILLION // 2000 for name, (available, _, _) in GPT3.items()}
    mixed = config(sources, tokens=300 * BILLION, context=2000)
    rows = {row["source"]: row for row in tabulate(mixed, windows, plan(mixed, windows))}
    assert sum(row["drawn"] for row in rows.values()) == 300 * BILLION
    found = {name: round(row["epochs"], 2) for name, row in rows.items()}
    assert found == {"Common Crawl": 0.43, "WebText2": 3.44, "Books1": 1.98, "Books2": 0.43, "Wikipedia": 2.97}
    assert all(row["share"] == pytest.approx(row["weight"], abs=1e-7) for row in rows.values())


def test_weights_epochs_and_sizes_each_say_it() -> None:
    windows = {"a": 100, "b": 300}
    assert drawn({"a": {"weight": 0.3}, "b": {"weight": 0.7}}, windows, tokens=1000) == [{"a": 30, "b": 70}]
    assert drawn({"a": {"weight": 1}, "b": {"weight": 3}}, windows, tokens=1000) == [{"a": 25, "b": 75}]
    assert drawn({"a": {"epochs": 2}, "b": {"epochs": 0.5}}, windows) == [{"a": 200, "b": 150}]
    assert drawn({"a": {"epochs": 2}, "b": {"weight": 0.8}}, windows, tokens=10_000) == [{"a": 200, "b": 800}]
    assert drawn({"a": {}, "b": {}}, windows, tokens=4000) == [{"a": 100, "b": 300}]
    assert drawn({"a": {"weight": 1}, "b": {"weight": 0}}, windows, tokens=100) == [{"a": 10}]


def test_temperature_flattens_sizes() -> None:
    windows = {"a": 1, "b": 100}
    (counts,) = drawn({"a": {}, "b": {}}, windows, tokens=1_010_000, temperature=1 / 0.3)
    assert counts["b"] / counts["a"] == pytest.approx(100**0.3, rel=1e-3)  # alpha = 0.3, as in XLM-R
    assert drawn({"a": {}, "b": {}}, windows, tokens=1010, temperature=1) == [{"a": 1, "b": 100}]
    assert drawn({"a": {}, "b": {}}, windows, tokens=1010, temperature=1e-9) == [{"b": 101}]


def test_a_limit_on_epochs_is_that_of_unimax() -> None:
    """Sizes of five languages in FineWeb-2, a budget of 250 G, 4 epochs at most, and what the package unimax deals."""
    sizes = {"swe": 179955884499, "fas": 184595788282, "ekk": 42541080893, "isl": 10027573389, "fao": 549707867}
    counts = deal(dict.fromkeys(sizes, 1), {name: 4 * size for name, size in sizes.items()}, 250 * BILLION)
    assert counts["fao"] == 2198831468
    assert counts["isl"] == 40110293556
    assert {counts[name] for name in ("swe", "fas", "ekk")} <= {69230291658, 69230291659}
    assert sum(counts.values()) == 250 * BILLION


def test_phases_share_the_limit() -> None:
    phases = [{"tokens": 1000, "sources": {"a": 1, "b": 1}}, {"tokens": 1000, "sources": {"a": 9, "b": 1}}]
    sources = {"a": {"max_epochs": 1}, "b": {}}
    windows = {"a": 70, "b": 70}
    assert drawn(sources, windows, phases=phases) == [{"a": 50, "b": 50}, {"a": 20, "b": 80}]
    mixed = config(sources, phases=phases)
    rows = tabulate(mixed, windows, plan(mixed, windows))
    assert [(row["phase"], row["source"]) for row in rows] == [(p, s) for p in (1, 2, 0) for s in "ab"]
    last = {"phase": 0, "source": "a", "weight": 0.7, "available": 700, "drawn": 700, "epochs": 1.0, "share": 0.35}
    assert rows[-2] == {**last, "max_epochs": 1.0}


@given(
    st.dictionaries(st.sampled_from("abcdefg"), st.floats(0, 1e6), min_size=1),
    st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 10**9)),
    st.integers(0, 10**10),
)
def test_windows_add_up_within_their_room(weights: dict[str, float], limits: dict[str, int], windows: int) -> None:
    room = dict.fromkeys("abcdefg", math.inf) | limits
    if sum(room[name] for name in weights if weights[name]) < windows:
        with pytest.raises(UserError, match=r"max_epochs leaves [\d,.]+ of the [\d,]+ windows"):
            deal(weights, room, windows)
        return
    counts = deal(weights, room, windows)
    assert sum(counts.values()) == windows
    assert all(0 <= n <= room[name] for name, n in counts.items())
    assert counts == deal(dict(reversed(weights.items())), room, windows)
    free = [name for name, n in counts.items() if n < room[name]]
    for a, b in itertools.pairwise(free):
        assert counts[a] * weights[b] == pytest.approx(counts[b] * weights[a], abs=weights[a] + weights[b], rel=1e-6)


A, B = {"weight": 0.5}, {"weight": 0.5}


@pytest.mark.parametrize(
    ("sources", "settings", "message"),
    [
        ({"a": A, "b": {"weight": 0.4}}, {"tokens": 90}, "the weights of the sources sum to 0.9, not 1"),
        ({"a": A, "b": {}}, {"tokens": 90}, "b has no weight, though others have"),
        ({"a": A, "b": B}, {}, "tokens is missing"),
        ({"a": {}, "b": {}}, {"temperature": 2.0}, "tokens is missing"),
        ({"a": A, "b": B}, {"tokens": 90, "temperature": 2.0}, "give weights of sources, or temperature, or phases"),
        ({"a": A, "b": B}, {"phases": [{"tokens": 9, "sources": {"a": 1}}]}, "only one"),
        ({"a": {}, "b": {}}, {"phases": [{"tokens": 9, "sources": {"b": 0}}]}, "weights of phase 1 sum to 0, not 1"),
        (
            {"english": {}, "b": {}},
            {"phases": [{"tokens": 9, "sources": {"b": 1}}, {"tokens": 9, "sources": {"englsh": 1}}]},
            "phase 2: no source is called 'englsh'; did you mean 'english'",
        ),
        ({"a": {"weight": -1}, "b": {"weight": 2}}, {"tokens": 9}, "the weight of a is -1.0; it must be at least 0"),
        ({"a": {"weight": math.nan}, "b": B}, {"tokens": 9}, "the weight of a is nan"),
        ({"a": {"weight": 0.5, "epochs": 3}, "b": B}, {"tokens": 900}, "a: a weight of 0.5 in 900 tokens makes 0.45 e"),
        ({"a": A, "b": B}, {"tokens": 9}, "9 tokens to draw are fewer than one window of 10"),
        ({"a": {"weight": 1, "max_epochs": 2}}, {"tokens": 9000}, "max_epochs leaves 200 of the 900 windows"),
    ],
)
def test_numbers_that_contradict_each_other_are_told(
    sources: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(config(sources, **settings), dict.fromkeys(sources, 100))


def test_settings_from_python_are_the_same() -> None:
    one = MixConfig({"a": Source(Path("t"), epochs=2)}, Path("m"), 10)
    assert plan(one, {"a": 7}) == [(Phase(140, {"a": 1.0}), {"a": 14})]
