import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm

from skipshift.distances import between, bin_index, hellinger

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
