import numpy as np
import pytest
from scipy.stats import t

from skipshift.statistics.excess import (
    Excess,
    difference,
    matching_sizes,
    noise_of,
    rooted,
    shape_of,
    t_interval,
)
from skipshift.statistics.resampling import Groups, sample


def test_the_interval_of_a_mean_is_students(rng):
    values = rng.normal(size=12)
    rest = np.array([np.delete(values, i).mean() for i in range(12)])
    found = t_interval(np.r_[values.mean(), rest], np.zeros(12, int))
    error = values.std(ddof=1) / np.sqrt(12)
    assert found == pytest.approx(t.interval(0.95, 11, values.mean(), error))


def test_the_interval_of_a_difference_of_means_is_welchs(rng):
    a, b = rng.normal(size=9), rng.normal(0, 3, 5)
    rest = [np.delete(a, i).mean() - b.mean() for i in range(9)]
    rest += [a.mean() - np.delete(b, i).mean() for i in range(5)]
    each = a.var(ddof=1) / 9, b.var(ddof=1) / 5
    free = sum(each) ** 2 / (each[0] ** 2 / 8 + each[1] ** 2 / 4)
    middle = a.mean() - b.mean()
    expected = t.interval(0.95, free, middle, np.sqrt(sum(each)))
    assert t_interval(np.r_[middle, rest], np.repeat([0, 1], [9, 5])) == pytest.approx(expected)


def test_without_units_there_is_no_interval():
    assert np.isnan(Excess(np.ones(1), np.empty(0, int), 2).interval()).all()


def test_a_root_keeps_the_sign():
    assert [rooted(x, 2) for x in (-4.0, 0.0, 9.0)] == [-2, 0, 3]
    assert rooted(-0.3, 1) == pytest.approx(-0.3)


def test_a_difference_of_large_excesses_has_the_interval_of_their_difference(rng):
    kinds = np.zeros(20, int)
    noise = rng.normal(0, 2e-4, (2, 20))
    a, b = (Excess(np.r_[e**2, e**2 + n], kinds, 2) for e, n in zip((0.5, 0.3), noise, strict=True))
    value, low, high = difference(a, b)
    assert value == pytest.approx(0.2)
    plain = t_interval(np.r_[0.2, np.sqrt(a.squares[1:]) - np.sqrt(b.squares[1:])], kinds)
    assert (low, high) == pytest.approx(plain, abs=0.002)


def test_a_layer_does_not_differ_from_itself_and_no_difference_exceeds_its_square():
    layer = Excess(np.array([0.04, 0.03, 0.05, 0.04]), np.zeros(3, int), 2)
    assert difference(layer, layer) == (0, 0, 0)
    nothing = Excess(np.zeros(4), np.zeros(3, int), 2)
    assert difference(nothing, nothing) == (0, 0, 0)


@pytest.mark.parametrize("pairs", [0, 6])
def test_the_noise_is_the_variance_of_a_difference_of_means(pairs, rng):
    groups, found, means = Groups(np.arange(8), np.r_[np.arange(pairs), 100 : 112 - pairs]), [], []
    for _ in range(3000):
        values = rng.normal(size=8 + len(groups.shifted))
        values[:8] *= 2
        for a, b in groups.pairs:
            values[b] += values[a]
        sides = sample(groups)
        means.append(float(((sides[0] - sides[1]) @ values)[0]))
        found.append(noise_of(np.outer(values, values), sides, groups)[0])
    assert np.mean(found) == pytest.approx(np.var(means), rel=0.12)


def test_groups_that_are_alike_need_no_thinning_and_rough_ones_set_the_size(rng):
    groups = Groups(np.arange(20), np.arange(20, 40))
    values = 1 + rng.normal(size=(40, 400)) * 0.1
    assert matching_sizes(values @ values.T, groups) is None
    values[20:] += rng.normal(size=(20, 400)) * 0.1  # twice the variance
    assert matching_sizes(values @ values.T, groups) == (10, 20)


def test_the_shape_is_1_for_channels_that_are_alike_and_that_of_means_without_noise(rng):
    squares = 0.04 + 0.02 * rng.normal(size=4000)
    assert shape_of(squares, np.full(4000, 0.02)) == pytest.approx(1, abs=0.02)
    some = np.repeat([0.09, 0.0], 500)
    assert shape_of(some, np.full(1000, 1e-9)) == pytest.approx(0.15 / np.sqrt(0.045))
