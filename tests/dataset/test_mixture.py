"""A mixture deals what its table says, the same for any number of processes, and restoring is exact."""

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.artifact import Artifact, build
from fromzero.commands.mix import VERB
from fromzero.config import from_arguments, from_mapping
from fromzero.corpus.document import Document
from fromzero.corpus.storing import DocumentWriter
from fromzero.dataset import PackConfig, TokenShards, WindowLoader, pack
from fromzero.dataset.mixing import PLAN, MixConfig, mix
from fromzero.dataset.mixture import Interleaving, open_data
from fromzero.errors import UserError
from fromzero.tokenizer import load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary

T, B = 8, 6
PHASES = [{"tokens": 130 * T, "sources": {"en": 3, "zh": 1}}, {"tokens": 70 * T + 5, "sources": {"zh": 1}}]
DIGESTS = [hashlib.sha256(bytes([i])) for i in range(20)]
TEXTS = {
    "en": [digest.hexdigest()[:40] for digest in DIGESTS],
    "zh": ["".join(chr(0x4E00 + byte * 7) for byte in digest.digest()[:15]) for digest in DIGESTS[:9]],
}


@pytest.fixture(scope="module")
def sources(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The tokens of each language of one corpus."""

    def fill(folder: Path) -> dict[str, Any]:
        for split in ("train", "validation"):
            with DocumentWriter(folder, split) as writer:
                for language, texts in TEXTS.items():
                    for i, text in enumerate(texts if split == "train" else texts[:2]):
                        writer.write(Document(f"{language}{i}", text, "a.txt", "", language, {}))
        return {"languages": {"en": {}, "zh": {}}}

    folder = tmp_path_factory.mktemp("mixed")
    corpus = build(folder / "corpus", "corpus", {}, {}, fill).path
    with pytest.raises(UserError, match="has no document in 'zhh'; did you mean 'zh'"):
        pack(PackConfig(corpus, tokenizer_folder, folder / "none", languages=("zhh",)))
    return {name: pack(PackConfig(corpus, tokenizer_folder, folder / name, languages=(name,))) for name in TEXTS}


def mixed(sources: dict[str, Artifact], output: Path, **settings: Any) -> Artifact:
    entries = {name: {"tokens": str(tokens.path)} for name, tokens in reversed(sources.items())}
    values = {"sources": entries, "output": str(output), "context": T, "phases": PHASES} | settings
    return mix(from_mapping(MixConfig, values, "mix.yaml"))


@pytest.fixture(scope="module")
def mixture(sources: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return mixed(sources, tmp_path_factory.mktemp("mixed") / "mixture")


def rows(loader: WindowLoader, batches: int) -> list[tuple[int, ...]]:
    return [tuple(row) for _ in range(batches) for row in loader.next_batch()[0].tolist()]


def windows(tokens: Artifact) -> set[tuple[int, ...]]:
    whole = TokenShards(tokens.path)[:].tolist()
    found = [tuple(whole[i : i + T]) for i in range(0, len(whole) - T, T)]
    assert len({*found}) == len(found)
    return {*found}


@pytest.mark.parametrize("language", TEXTS)
def test_languages_are_packed_alone(sources: dict[str, Artifact], language: str) -> None:
    tokenizer, shards = load_tokenizer(sources[language].path), TokenShards(sources[language].path)
    whole = tokenizer.decode([i for i in shards[:].tolist() if i != shards.end_of_text])
    assert whole == "".join(TEXTS[language])


def test_what_is_dealt_is_what_the_table_says(mixture: Artifact, sources: dict[str, Artifact]) -> None:
    loader = open_data(mixture.path).loader(T, 1, 0)
    there = {name: windows(tokens) for name, tokens in sources.items()}
    assert not there["en"] & there["zh"]
    dealt = [("en" if row in there["en"] else "zh", row) for row in rows(loader, 200)]
    assert all(row in there[name] for name, row in dealt)
    for phase, part in (1, dealt[:130]), (2, dealt[130:]), (0, dealt):
        counts = Counter(name for name, _ in part)
        table = {row["source"]: row for row in mixture.summary["table"] if row["phase"] == phase}
        assert {name: row["drawn"] for name, row in table.items()} == {name: counts[name] * T for name in TEXTS}
        assert all(table[name]["share"] == counts[name] / len(part) for name in TEXTS)
    for name, size in ((name, len(there[name])) for name in TEXTS):
        mine = [row for other, row in dealt if other == name]  # over both phases
        for epoch in (mine[start : start + size] for start in range(0, len(mine), size)):
            assert len({*epoch}) == len(epoch), "none comes again before all were seen"
    with pytest.raises(UserError, match="ends after 200 windows; mix more tokens, or train less"):
        loader.next_batch()


@settings(deadline=None)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=5), st.integers(0, 5))
def test_every_window_has_one_place_and_shares_hold_all_along(counts: list[int], seed: int) -> None:
    order = Interleaving(counts, seed)
    found = np.array([order.locate(place) for place in range(sum(counts))]).reshape(-1, 2)
    for source, count in enumerate(counts):
        assert found[found[:, 0] == source, 1].tolist() == list(range(count))
    for place in range(0, sum(counts), 700):
        seen = np.bincount(found[:place, 0], minlength=len(counts))
        assert np.abs(seen - place * np.array(counts) / sum(counts)).max() <= 60  # seven standard deviations in a block


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_stream_is_the_same_for_any_number_of_processes(mixture: Artifact, world_size: int) -> None:
    alone = open_data(mixture.path).loader(T, B, 3)
    together = [open_data(mixture.path).loader(T, B, 3, rank, world_size) for rank in range(world_size)]
    for _ in range(200 // B):
        ids, targets = alone.next_batch()
        for rank, (x, y) in enumerate(loader.next_batch() for loader in together):
            assert x.equal(ids[rank::world_size])
            assert y.equal(targets[rank::world_size])
    assert all(loader.state_dict() == alone.state_dict() for loader in together)


@pytest.mark.parametrize("before", [0, 5, 21, 25])  # 130 / 6 = 21.7: within the batch that is of both phases
def test_restoring_goes_on_exactly(mixture: Artifact, before: int) -> None:
    one, other, another = (open_data(mixture.path).loader(T, B, seed) for seed in (9, 9, 8))
    rows(one, before)
    state = one.state_dict()
    rest = rows(one, 8)
    rows(other, 2)
    other.load_state_dict(state)
    assert rows(other, 8) == rest != rows(another, 8)
    with pytest.raises(UserError, match="seed 9, here it is 8"):
        another.load_state_dict(state)


def test_held_out_text_is_that_of_all_sources(mixture: Artifact, sources: dict[str, Artifact]) -> None:
    held_out = open_data(mixture.path).held_out
    parts = [TokenShards(sources[name].path, "validation") for name in ("en", "zh")]
    assert held_out[:].tolist() == [i for part in parts for i in part[:].tolist()]
    starts = held_out.boundaries.tolist()
    assert len(starts) == 5
    assert starts[-1] == len(held_out)
    assert {int(held_out[i : i + 1][0]) for i in starts[:-1]} == {held_out.end_of_text}
    both = mixture.summary["validation"]
    assert both["documents"] == 4
    assert both["bytes_per_token"] == both["bytes"] / len(held_out)


def test_a_source_that_changed_or_went_is_refused(
    sources: dict[str, Artifact], mixture: Artifact, tmp_path: Path
) -> None:
    copies = {name: Artifact(tmp_path / name, tokens.manifest) for name, tokens in sources.items()}
    for name, tokens in sources.items():
        shutil.copytree(tokens.path, tmp_path / name)
    made = mixed(copies, tmp_path / "mixture")
    assert open_data(made.path).digest == open_data(mixture.path).digest  # wherever they are
    (tmp_path / "zh").rename(tmp_path / "hidden")
    with pytest.raises(
        UserError, match=r"zh: no such folder; .*mixture draws zh from it: put back what was there, or run"
    ):
        open_data(made.path)
    shutil.copytree(tmp_path / "en", tmp_path / "zh")
    with pytest.raises(UserError, match=r"zh was changed; .*mixture draws zh from it: put back what was there, or run"):
        open_data(made.path)
    with pytest.raises(UserError, match="windows of 8 tokens, not of 16; mix for this context"):
        open_data(mixture.path).loader(16, B, 0)


def test_what_cannot_be_mixed_is_told(sources: dict[str, Artifact], corpus: Artifact, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"is a corpus; name tokens, made by fromzero pack, or a mixture, by fromzero mix"
    ):
        open_data(corpus.path)
    with pytest.raises(UserError, match=r"en has \d+ tokens, too few for a window of 1000; leave"):
        mixed(sources, tmp_path / "m", context=1000)
    with pytest.raises(UserError, match="phase 2 tokens is -1; it must be above 0"):
        mixed(sources, tmp_path / "m", phases=[PHASES[0], {"tokens": -1, "sources": {}}])
    with pytest.raises(UserError, match="sources is empty"):
        mixed({}, tmp_path / "m")
    special = {"<|endoftext|>": 256}
    BPETokenizer(byte_vocabulary([]), [], "fromzero", special, {"bos_token": "<|endoftext|>"}).save(tmp_path / "other")
    other = pack(PackConfig(corpus.path, tmp_path / "other", tmp_path / "tokens"))
    with pytest.raises(UserError, match="en and fr were packed with different tokenizers"):
        mixed({**sources, "fr": other}, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "plan",
    ["", "[]", '{"context": 8, "sources": {"a": 5}, "phases": []}', '{"context": 8, "sources": {}, "phases": [{}]}'],
)
def test_a_plan_that_makes_no_sense_is_one_sentence(tmp_path: Path, plan: str) -> None:
    def fill(folder: Path) -> dict[str, Any]:
        (folder / PLAN).write_text(plan)
        return {}

    with pytest.raises(UserError, match=r"mixture\.json can't be read .*; run fromzero mix again"):
        open_data(build(tmp_path / "m", "mixture", {}, {}, fill).path)


def test_the_verb_shows_the_table(
    sources: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mix.yaml"
    entries = "".join(f"  {name}: {{tokens: {tokens.path}, weight: 0.5}}\n" for name, tokens in sources.items())
    file.write_text(f"sources:\n{entries}output: {tmp_path}/out\ncontext: 8\ntokens: 8000\n")
    VERB.run(from_arguments(VERB.settings, ["--config", str(file)], "fromzero mix", ""))
    said = capsys.readouterr().err
    assert "share drawn" in said
    assert said.count("4,000") == 2
    file.write_text(file.read_text().replace("weight", "wieght"))
    with pytest.raises(UserError, match=r"unknown key 'sources\.en\.wieght'; did you mean 'weight'"):
        from_arguments(VERB.settings, ["--config", str(file)], "fromzero mix", "")
