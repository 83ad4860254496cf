import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cityblock, jensenshannon
from scipy.stats import energy_distance, entropy, ks_2samp, norm, wasserstein_distance

from skipshift.names import DISTANCE_NAMES
from skipshift.statistics.distances import (
    CHANNEL_DISTANCES,
    add_counts,
    between,
    bin_index,
    freedman_diaconis,
    hellinger,
)
from skipshift.statistics.two_sample import TWO_SAMPLE_STATISTICS

VALUES = st.floats(-1e6, 1e6, width=32)
SETS = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(2)), elements=VALUES)


def naive_hellinger(a, b, bins):
    """Eq. 4-9, one channel and one value at a time."""
    low, high = min(*a, *b), max(*a, *b)
    if low == high:
        return 0.0
    edges = [low + (high - low) * (i / bins) for i in range(bins + 1)]

    def frequencies(values):
        counts = [0] * bins
        for value in values:
            inside = [i for i in range(bins) if edges[i] <= value < edges[i + 1]]
            counts[inside[0] if inside else bins - 1] += 1
        return [c / len(values) for c in counts]

    overlap = sum(np.sqrt(p * q) for p, q in zip(frequencies(a), frequencies(b), strict=True))
    return np.sqrt(max(0.0, 1 - overlap))


@settings(deadline=None)
@given(SETS, SETS, st.integers(1, 20))
def test_hellinger_equals_a_naive_reading_of_the_equations(a, b, bins):
    naive = [naive_hellinger(*map(np.float64, (a[:, d], b[:, d])), bins) for d in range(2)]
    # the naive 1 - BC loses half the digits near 0, hence the square
    assert hellinger(a, b, bins) ** 2 == pytest.approx(np.square(naive), abs=1e-12)


@given(SETS, SETS)
def test_hellinger_is_symmetric_bounded_and_zero_for_the_same_set(a, b):
    distance = hellinger(a, b)
    assert np.array_equal(distance, hellinger(b, a))
    assert ((distance >= 0) & (distance <= 1)).all()
    assert (hellinger(a, a[::-1]) == 0).all()


@given(SETS, SETS, st.floats(0.1, 100), st.floats(-100, 100))
def test_disjoint_sets_are_one_apart_whatever_their_scale(a, b, scale, offset):
    a, b = a % 1 * scale + offset, b % 1 * scale + offset + 3 * scale
    assert hellinger(a, b) == pytest.approx(1)


def test_hellinger_of_normals_approaches_the_closed_form(rng):
    a, b = rng.normal(0, 1, (400_000, 1)), rng.normal(1, 1, (400_000, 1))
    assert hellinger(a, b)[0] == pytest.approx(np.sqrt(1 - np.exp(-1 / 8)), abs=3e-3)


def test_two_samples_of_one_normal_are_as_far_apart_as_measured_elsewhere(rng):
    draws = [hellinger(*rng.normal(size=(2, 200, 50))).mean() for _ in range(5)]
    assert np.mean(draws) == pytest.approx(0.39, abs=0.01)


def test_hellinger_bounds_jensen_shannon(rng):
    p, q = rng.integers(0, 50, (2, 40))
    squared = between(p, q) ** 2
    divergence = jensenshannon(p, q, base=2) ** 2
    assert squared <= divergence + 1e-12
    assert divergence <= 2 * squared


def test_the_largest_value_belongs_to_the_last_bin():
    place = bin_index(np.array([[0.0], [0.5], [1.0]]), np.zeros(1), np.ones(1), 2)
    assert place.ravel().tolist() == [0, 1, 1]


@pytest.mark.parametrize("bins", [3, 7, 10, 100])
def test_a_value_on_an_edge_belongs_to_the_bin_above(bins):
    low, high = np.array([0.1]), np.array([0.7])
    edges = low + (high - low) * (np.arange(bins) / bins)
    assert bin_index(edges[:, None], low, high, bins).ravel().tolist() == list(range(bins))
    below = np.nextafter(edges[1:], -1)
    assert bin_index(below[:, None], low, high, bins).ravel().tolist() == list(range(bins - 1))


def test_a_constant_channel_has_distance_zero():
    a, b = np.full((5, 1), 3.0), np.full((9, 1), 3.0)
    assert hellinger(a, b).tolist() == [0.0]


def test_sets_of_different_sizes_compare_frequencies():
    a = np.array([[0.0], [1.0]])
    assert hellinger(a, a.repeat(7, 0)).tolist() == [0.0]


def test_bins_narrower_than_float32_can_tell_are_exact():
    a = np.linspace(16777216, 16777300, 85, dtype=np.float32)[:, None]
    assert hellinger(a, a[::-1] + np.float32(1), 100)[0] > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_or_infinity_names_the_channel(bad):
    a = np.array([[0.0, bad]])
    with pytest.raises(ValueError, match="features_b has NaN or infinity in channel 1"):
        hellinger(np.zeros((2, 2)), a)


def test_different_channel_counts_are_refused():
    with pytest.raises(ValueError, match="same channels, got 2 and 3"):
        hellinger(np.zeros((4, 2)), np.zeros((4, 3)))


@pytest.mark.parametrize("shape", [(0, 2), (4,)])
def test_a_set_without_vectors_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(M, D\) with M >= 1"):
        hellinger(np.zeros(shape), np.zeros((4, 2)))


def test_the_normal_reference_is_what_the_docstring_says():
    grid = np.linspace(-8, 9, 20001)
    overlap = np.trapezoid(np.sqrt(norm.pdf(grid) * norm.pdf(grid, 1)), grid)
    assert overlap == pytest.approx(np.exp(-1 / 8))


def smooth(counts):
    return 0.99 * counts / counts.sum() + 0.01 / len(counts)


BINS = np.arange(30)
ELSEWHERE = {
    "hellinger": lambda p, q: np.linalg.norm(np.sqrt(p / p.sum()) - np.sqrt(q / q.sum())) / 2**0.5,
    "jensen-shannon": lambda p, q: jensenshannon(p, q, base=2),
    "kullback-leibler": lambda p, q: entropy(smooth(q), smooth(p)),
    "total-variation": lambda p, q: cityblock(p / p.sum(), q / q.sum()) / 2,
    "kolmogorov-smirnov": lambda p, q: ks_2samp(BINS.repeat(p), BINS.repeat(q)).statistic,
    "wasserstein": lambda p, q: 0.1 * wasserstein_distance(BINS, BINS, p, q),
    "energy": lambda p, q: energy_distance(0.1 * BINS, 0.1 * BINS, p, q),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_distance_is_what_scipy_gives_for_the_same_histograms(name, rng):
    p, q = rng.integers(0, 9, (2, 5, 30))
    q[:, 20:] = 0
    expected = [ELSEWHERE[name](*channel) for channel in zip(p, q, strict=True)]
    assert between(p, q, name, np.full(5, 0.1)) == pytest.approx(expected)


def test_wasserstein_is_the_shift_of_two_normals_and_scaled_by_the_spread_of_the_first(rng):
    samples = rng.normal([[0], [3]], [[2], [2]], (2, 200_000)).T[None]
    counts = np.zeros((1, 2, 400), np.int32)
    add_counts(counts, samples, np.zeros(1, int), np.full(2, -12.0), np.full(2, 15.0))
    p, q = counts[0]
    assert between(p, q, "wasserstein", 27 / 400) == pytest.approx(3, abs=0.03)
    assert between(p, q, "wasserstein-scaled") == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize("name", CHANNEL_DISTANCES)
def test_every_distance_is_zero_for_equal_frequencies_and_finite_for_disjoint_ones(name):
    p, q = np.array([[5, 3, 0, 0], [0, 0, 0, 9]]), np.array([[0, 0, 2, 2], [4, 0, 0, 0]])
    assert between(p, p * 7, name).tolist() == [0, 0]
    assert (between(p, q, name) > 0.5).all()
    assert (between(p, q, name) <= CHANNEL_DISTANCES[name].most).all()


def test_the_names_of_a_spec_are_those_of_the_tables():
    assert (*CHANNEL_DISTANCES, *TWO_SAMPLE_STATISTICS) == DISTANCE_NAMES


@pytest.mark.parametrize("shape", [(7, 4, 5), (3, 900, 200)])
def test_counts_of_groups_are_those_of_numpy(shape, rng):
    features, groups = rng.normal(size=shape), np.arange(shape[0]) % 2
    low, high = features.min((0, 1)), features.max((0, 1))
    counts = np.zeros((2, shape[2], 30), np.int32)
    add_counts(counts, features, groups, low, high)
    for group, channel in [(0, 0), (1, shape[2] - 1)]:
        own = features[groups == group, :, channel]
        expected = np.histogram(own, 30, (low[channel], high[channel]))[0]
        assert counts[group, channel].tolist() == expected.tolist()


def test_freedman_diaconis_is_the_median_of_what_numpy_gives(rng):
    features = rng.normal(size=(500, 3)) ** [1, 2, 3]
    expected = [len(np.histogram_bin_edges(f, "fd")) - 1 for f in features.T]
    assert freedman_diaconis(features) == np.median(expected)
    assert freedman_diaconis(np.zeros((9, 2))) == 2


def test_bins_must_be_at_least_one():
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        hellinger(np.zeros((2, 1)), np.ones((2, 1)), bins=0)
