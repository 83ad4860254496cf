import numpy as np
import pytest

from skipshift.names import DISTANCES
from skipshift.profile.layerwise import compare, draw
from skipshift.specs import ProfileSpec
from skipshift.statistics.distances import hellinger

SPEC = ProfileSpec(bins=30, null_draws=30, permutation_draws=99)


def noise(rng, *levels):
    """Features (images, 4, 6) whose spread comes in equal parts from each (groups, each) level."""
    images = levels[0]
    parts = [rng.normal(size=(n, 1, 6)).repeat(images // n, 0) for n in levels]
    return sum(parts, rng.normal(size=(images, 4, 6)))


def unpaired(rng):
    return noise(rng, 24), noise(rng, 24), np.arange(24), np.arange(24, 48)


def uneven(rng):
    return noise(rng, 30), noise(rng, 9), np.arange(30), np.arange(30, 39)


def clusters(rng):
    return noise(rng, 40, 8), noise(rng, 40, 8), np.arange(40) // 5, 8 + np.arange(40) // 5


def pairs(rng):
    base = rng.normal(size=(24, 1, 6))
    return base + noise(rng, 24), base + noise(rng, 24), np.arange(24), np.arange(24)


def some_pairs(rng):
    base = rng.normal(size=(36, 1, 6))
    return base[:24] + noise(rng, 24), base[12:] + noise(rng, 24), np.arange(24), np.arange(12, 36)


@pytest.mark.parametrize("design", [unpaired, uneven, clusters, pairs, some_pairs])
def test_with_nothing_shifted_the_excess_is_zero_and_p_is_uniform(design):
    found = []
    for seed in range(500):
        a, b, *labels = design(np.random.default_rng((seed, 5)))
        draws = draw((labels[0], labels[1]), SPEC)
        found.append(compare([a], [b], draws, SPEC)["hellinger"])
    excess = np.array([one.value.mean() - one.null.mean() for one in found])
    p = np.array([one.p for one in found])
    assert abs(excess.mean()) < 3 * excess.std() / np.sqrt(500)
    # three standard errors of a share of 500
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.03)
    assert (p <= 0.5).mean() == pytest.approx(0.5, abs=0.068)


@pytest.mark.parametrize("design", [unpaired, uneven, clusters, pairs, some_pairs])
def test_a_shift_has_an_excess_and_the_least_p_there_is(design, rng):
    a, b, *labels = design(rng)
    found = compare([a], [b + 4], draw((labels[0], labels[1]), SPEC), SPEC)["hellinger"]
    assert found.value.mean() - found.null.mean() > 0.3
    assert found.p == pytest.approx(0.01)


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_of_one_set_from_itself_has_no_excess_and_no_p(name, rng):
    spec = ProfileSpec(distances=(name,), permutation_draws=20, null_draws=5)
    a = noise(rng, 12)
    found = compare([a], [a], draw((np.arange(12),) * 2, spec), spec)[name]
    nothing = {"auc": 0.5, "gdv": found.value[0]}.get(name, 0)
    assert found.value == pytest.approx(nothing, abs=1e-6)
    if name == "cka":
        assert np.isnan([found.null[0], found.p]).all()
    else:
        assert found.null == pytest.approx(found.value, abs=1e-6)
        assert found.p == 1


def test_the_excess_is_that_of_halves_of_both_sets(rng):
    a, b = noise(rng, 40), noise(rng, 40) + 1
    a[:, 0, :], a[:, 1, :], b[:, 0, :], b[:, 1, :] = -12, 12, -12, 12  # one range for every half
    spec = ProfileSpec(bins=20, null_draws=200, permutation_draws=0)
    found = compare([a], [b], draw((np.arange(40), np.arange(40, 80)), spec), spec)["hellinger"]
    excess = []
    for _ in range(200):
        own, other = rng.permutation(40), rng.permutation(40)
        near, far, moved = a[own[:20]], a[own[20:]], b[other[:20]]
        near, far, moved = (side.reshape(-1, 6) for side in (near, far, moved))
        excess.append(hellinger(near, moved, 20) - hellinger(near, far, 20))
    assert found.value - found.null == pytest.approx(np.mean(excess, 0), abs=0.01)


def test_nothing_is_drawn_without_draws_or_with_a_single_group(rng):
    a, b = noise(rng, 12), noise(rng, 12)
    spec = ProfileSpec(null_draws=0, permutation_draws=0)
    for labels, chosen in (((np.arange(12),) * 2, spec), ((np.zeros(12), np.arange(12)), SPEC)):
        found = compare([a], [b], draw(labels, chosen), chosen)["hellinger"]
        assert (found.value > 0).all()
        assert np.isnan([*found.null, found.low, found.high, found.p]).all()


def test_the_smallest_attainable_p_of_few_groups_is_known():
    spec = ProfileSpec(permutation_draws=4000)
    assert draw((np.arange(4),) * 2, spec).smallest_p == pytest.approx(2 / 16, abs=0.02)
    assert draw((np.arange(3), np.arange(3, 6)), spec).smallest_p == pytest.approx(2 / 20, abs=0.02)
    assert draw((np.arange(3), np.arange(3, 4)), spec).smallest_p == pytest.approx(1 / 4, abs=0.02)


def test_distances_side_by_side_are_those_measured_alone(rng):
    a, b = noise(rng, 12), noise(rng, 12) + 1
    labels = (np.arange(12), np.arange(12))
    together = ProfileSpec(distances=DISTANCES, permutation_draws=9)
    found = compare([a], [b], draw(labels, together), together)
    for name in ("wasserstein", "mmd"):
        alone = ProfileSpec(distances=(name,), permutation_draws=9)
        only = compare([a], [b], draw(labels, alone), alone)[name]
        assert np.array_equal(found[name].value, only.value)
        assert (found[name].p, found[name].low) == (only.p, only.low)


def test_bins_by_freedman_and_diaconis_grow_with_the_sets(rng):
    spec = ProfileSpec(bins="fd", null_draws=0, permutation_draws=0)
    for images in (20, 2000):
        a, b = noise(rng, images), noise(rng, images) + 3
        found = compare([a], [b], draw((np.arange(images),) * 2, spec), spec)["hellinger"]
        flat = np.concatenate([a, b]).reshape(-1, 6)
        bins = np.median([len(np.histogram_bin_edges(f, "fd")) - 1 for f in flat.T])
        expected = hellinger(a.reshape(-1, 6), b.reshape(-1, 6), int(np.ceil(bins)))
        assert found.value == pytest.approx(expected, abs=0.01)


def test_blocks_of_a_set_are_the_set(rng):
    a, b, spec = noise(rng, 12), noise(rng, 12), ProfileSpec(distances=("energy", "mmd"))
    draws = draw((rng.integers(0, 5, 12), rng.integers(0, 5, 12)), spec)
    whole, parts = (
        compare(*s, draws, spec) for s in (([a], [b]), (np.split(a, [5]), [*b[:, None]]))
    )
    for name in spec.distances:
        assert np.array_equal(whole[name].null, parts[name].null)
        assert whole[name].p == parts[name].p
