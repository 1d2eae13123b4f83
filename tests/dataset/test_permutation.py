import numpy as np
import pytest

from fromzero.dataset.permutation import Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4097])
def test_it_is_a_permutation(size: int) -> None:
    for key in range(5):
        assert sorted(Permutation(size, key, 0)(np.arange(size))) == list(range(size))


def test_it_depends_on_the_key_and_not_on_how_it_is_asked() -> None:
    whole = Permutation(1000, 1, 2)(np.arange(1000))
    assert [int(Permutation(1000, 1, 2)(i)) for i in range(0, 1000, 97)] == whole[::97].tolist()
    for other in ((1, 3), (2, 2)):
        assert (Permutation(1000, *other)(np.arange(1000)) == whole).mean() < 0.02


def test_items_are_spread_evenly() -> None:
    """Each item comes first about equally often over many keys: chi-squared with 9 degrees of freedom."""
    first = np.bincount([int(Permutation(10, key)(0)) for key in range(2000)], minlength=10)
    assert ((first - 200) ** 2 / 200).sum() < 30


def test_neighbours_are_torn_apart() -> None:
    order = Permutation(10_000, 0)(np.arange(10_000))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05


def test_large_sizes_cost_nothing() -> None:
    order = Permutation(10**12, 3)(np.arange(1000))
    assert len(np.unique(order)) == 1000
    assert order.min() >= 0
    assert order.max() < 10**12
