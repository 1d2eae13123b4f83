"""Near duplicates: planted pairs are found as often as the formula says, and the right one of a cluster is kept."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from fromzero.corpus.near_duplicates import MinHash, find_near_duplicates, preference, sign, write_signatures
from fromzero.errors import UserError

MINHASH = MinHash()


def found_by_formula(similarity: float, settings: MinHash = MINHASH) -> float:
    return 1 - (1 - similarity**settings.rows) ** settings.bands


def planted(count: int, similarity: float, chinese: bool, seed: int) -> tuple[list[tuple[str, str]], float]:
    """Pairs of 404 words with a beginning in common, and their Jaccard similarity: no word stands twice."""
    random_ = random.Random(seed)
    common = round(800 * similarity / (1 + similarity))
    alphabet = [chr(code) for code in range(0x4E00, 0x9FA5)]

    def words(count: int) -> list[str]:
        return random_.sample(alphabet, count) if chinese else [f"{random_.getrandbits(50):x}" for _ in range(count)]

    pairs, joint = [], "" if chinese else " "
    for _ in range(count):
        all_ = words(2 * 404 - (common + 4))
        shared, ours, theirs = all_[: common + 4], all_[common + 4 : 404], all_[404:]
        pairs.append((joint.join(shared + ours), joint.join(shared + theirs)))
    return pairs, common / (800 - common)


def cluster(
    folder: Path, texts: Sequence[str], settings: MinHash, ids: Sequence[str], parts: int = 1, scores: object = None
) -> list[int]:
    paths = [folder / f"{part}.npz" for part in range(parts)]
    cuts = np.linspace(0, len(texts), parts + 1).astype(int).tolist()
    for path, start, stop in zip(paths, cuts, cuts[1:], strict=False):
        assert write_signatures(iter(texts[start:stop]), path, settings) == stop - start
    given_scores = [len(text) for text in texts] if scores is None else scores
    return find_near_duplicates(paths, settings, preference(ids, given_scores)).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("chinese", [False, True])
@pytest.mark.parametrize("similarity", [0.4, 0.6, 0.7, 0.8, 0.9])
def test_pairs_are_found_as_often_as_the_formula_says(tmp_path: Path, similarity: float, chinese: bool) -> None:
    pairs, real = planted(400, similarity, chinese, round(100 * similarity) + chinese)
    texts = [text for pair in pairs for text in pair]
    kept = cluster(tmp_path, texts, MINHASH, [f"{i:04d}" for i in range(800)])
    found = sum(kept[2 * i] == kept[2 * i + 1] for i in range(400))
    expected = found_by_formula(real)
    assert abs(found / 400 - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5 + 1 / 400
    assert {number // 2 for number in kept[::2]} == set(range(400))  # no text met one of another pair
    signatures = sign(texts, MINHASH).reshape(400, 2, 128)
    agreed = (signatures[:, 0] == signatures[:, 1]).mean(axis=1)
    assert abs(agreed.mean() - real) < 4 * (real * (1 - real) / 128 / 400) ** 0.5
    assert agreed.std() == pytest.approx((real * (1 - real) / 128) ** 0.5, rel=0.2)  # as 128 independent hashes


@pytest.mark.parametrize(("bands", "rows"), [(1, 1), (5, 3), (20, 13)])
def test_bands_and_rows_are_what_the_settings_say(tmp_path: Path, bands: int, rows: int) -> None:
    settings = MinHash(bands=bands, rows=rows)
    pairs, real = planted(400, 0.7, False, bands)
    kept = cluster(tmp_path, [t for pair in pairs for t in pair], settings, [f"{i}" for i in range(800)])
    found = sum(kept[2 * i] == kept[2 * i + 1] for i in range(400))
    expected = found_by_formula(real, settings)
    assert abs(found / 400 - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5


def test_real_prose_with_a_few_changes_is_one_cluster(tmp_path: Path, english: str, chinese: str) -> None:
    texts = [
        english,
        english.replace("railway", "tramway"),
        chinese,
        "编者按：" + chinese,
        "x" * 500,
        "",
        "",
        "!?",
        "?!",
    ]
    assert cluster(tmp_path, texts, MINHASH, [f"{i}" for i in range(9)]) == [0, 0, 3, 3, 4, 5, 6, 7, 8]


def test_short_texts_are_compared_whole(tmp_path: Path) -> None:
    texts = ["Two words", "two  WORDS.", "two other", "从零", "从 零", "从一"]
    assert cluster(tmp_path, texts, MINHASH, list("abcdef"), scores=[0] * 6) == [0, 0, 2, 3, 3, 5]


def test_the_greatest_score_is_kept_then_the_smallest_id(tmp_path: Path, english: str) -> None:
    texts = [english] * 4
    assert cluster(tmp_path, texts, MINHASH, list("dcba"), scores=[1, 2, 2, 0]) == [2] * 4
    assert preference(["b", "a", "é"], [1, 1, 3]).tolist() == [2, 1, 0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 5), st.randoms(use_true_random=False))
@limits(max_examples=25, deadline=None)
@pytest.mark.parametrize("least", [None, 0.6])
def test_order_and_partitions_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, least: float | None, kinds: list[int], parts: int, random_: random.Random
) -> None:
    settings = MinHash(least_similarity=least)
    base = [[f"w{kind}x{i}" for i in range(60)] for kind in range(6)]
    texts = [" ".join([*base[kind][number % 7 :], f"end{number}"]) for number, kind in enumerate(kinds)]
    ids = [f"{number:02d}" for number in range(len(texts))]
    kept = cluster(tmp_path_factory.mktemp("a"), texts, settings, ids)
    order = list(range(len(texts)))
    random_.shuffle(order)
    again = cluster(
        tmp_path_factory.mktemp("b"), [texts[i] for i in order], settings, [ids[i] for i in order], min(parts, len(ids))
    )
    assert {ids[order[i]]: ids[order[best]] for i, best in enumerate(again)} == {
        ids[i]: ids[best] for i, best in enumerate(kept)
    }
    assert all(kept[best] == best for best in kept)


def test_unlike_pairs_are_let_go_when_asked(tmp_path: Path) -> None:
    near, _ = planted(100, 0.9, False, 1)
    far, _ = planted(100, 0.6, False, 2)
    texts = [text for pair in near + far for text in pair]
    ids = [f"{i:03d}" for i in range(400)]
    loose, strict = (cluster(tmp_path, texts, MinHash(least_similarity=s), ids) for s in (None, 0.75))
    same = lambda kept, start: sum(kept[i] == kept[i + 1] for i in range(start, start + 200, 2))  # noqa: E731
    assert same(loose, 0) == same(strict, 0) == 100
    assert same(loose, 200) > 10
    assert same(strict, 200) == 0


def test_signatures_are_the_same_in_any_thread_and_batch(english: str, chinese: str) -> None:
    texts = [english * (1 + i % 3) + chinese * (i % 5) + f" {i}" for i in range(64)]
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda i: sign(texts[i : i + 8], MINHASH), range(0, 64, 8)))
    assert (np.concatenate(parts) == sign(texts, MINHASH)).all()


def test_a_long_text_is_signed_as_its_shingles_are(english: str) -> None:
    """Words are read in blocks of 4,096: the shingles across their borders count too, and no others."""
    words = [f"{i * 7919:x}" for i in range(9000)]
    whole = sign([" ".join(words)], MINHASH)
    parts = sign([" ".join(words[i : i + 1000]) for i in range(0, 9000, 996)], MINHASH)
    assert (whole[0] == parts.min(axis=0)).all()


def test_every_changed_byte_of_signatures_is_told_or_harmless(tmp_path: Path, english: str) -> None:
    path, ranks = tmp_path / "a.npz", np.arange(4)
    write_signatures([english, english + "x", english[:200], "other"], path, MINHASH)
    right, data = find_near_duplicates([path], MINHASH, ranks).tolist(), path.read_bytes()
    told: list[str] = []
    for place in range(0, len(data), 61):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            assert find_near_duplicates([path], MINHASH, ranks).tolist() == right
        except UserError as error:
            told.append(str(error))
    assert all(str(path) in message for message in told)
    assert len(told) > len(data) / 61 / 3
    for size in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="make them again"):
            find_near_duplicates([path], MINHASH, ranks)


def test_signatures_of_other_settings_or_texts_are_refused(tmp_path: Path, english: str) -> None:
    path = tmp_path / "a.npz"
    write_signatures([english], path, MINHASH)
    with pytest.raises(UserError, match="settings of minhash"):
        find_near_duplicates([path], MinHash(words=4), np.arange(1))
    with pytest.raises(UserError, match="2 texts have 1 signatures"):
        find_near_duplicates([path], MINHASH, np.arange(2))
    with np.load(path) as file:
        arrays = dict(file)
    for wrong in (np.array([None]), np.zeros((1, 8)), np.zeros((1, 7), np.uint32), np.array(1, np.uint32)):
        np.savez(path, allow_pickle=True, **dict.fromkeys(arrays, wrong))
        with pytest.raises(UserError, match="damaged"):
            find_near_duplicates([path], MINHASH, np.arange(1))
    np.savez_compressed(path, **arrays)
    with pytest.raises(UserError, match="compressed"):
        find_near_duplicates([path], MINHASH, np.arange(1))


def test_no_texts_at_all(tmp_path: Path) -> None:
    assert write_signatures([], tmp_path / "a.npz", MINHASH) == 0
    assert find_near_duplicates([tmp_path / "a.npz"], MINHASH, preference([], [])).tolist() == []


@pytest.mark.parametrize("wrong", [{"bands": 0}, {"rows": -1}, {"words": 0}, {"least_similarity": 1.5}])
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        MinHash(**wrong)  # type: ignore[arg-type]
